-- Take jobs from workers that died, one crash charged.
-- keys: lease jobs life uniq ready wait retry dead_jobs cancelled_jobs cancel progress crashed idle
-- keys: steps ends tell groups halts
-- keys: spent
-- keys: lines busy turn limits pace paced tats
-- takes: max_crashes problem channel queue tries expired why
-- arguments: max_crashes, the error of a job that dies, the prefix of the workers' channels, the queue, how
--   many workers to call, 1 if only leases that have run out are taken, why the attempts failed; then leases
-- result: {ids of the returned ones, ids of the dead ones, names of groups and their totals, names of groups
--   that are to be stopped}
-- complexity: O(log of the queue) a job; at most 50 jobs
-- A lease of a job that does not run, which another program has written, is removed, and the job stays as it is.

local micros = clock()
local now = micros / 1000000
local returned, dead = {}, {}
local growth, halted = {}, {}
local stepped = call('EXISTS', STEPS) == 1
for at = FIRST, #ARGV do
  local lease = ARGV[at]
  local id, token = string.match(lease, '^(%d+):(%d+)')
  local expires = call('ZSCORE', LEASE, lease)
  local theirs = expires and (expired ~= '1' or tonumber(expires) <= now)
  local record = id and theirs and sound(call('HGET', JOBS, id))
  if theirs then
    call('ZREM', LEASE, lease)
    if id then call('HDEL', PROGRESS, id) end
  end
  local life = record and life_of(call('HGET', LIFE, id))
  if record and is_running(READY, WAIT, RETRY, id, record, life) then
    life.c = life.c + 1
    life.ran = string.format('%.6f', tonumber(token) / 1000000)
    -- A line of JSON, as neoq/attempts.py has it; its times are written by hand, for cjson keeps 14 digits.
    local line = cjson.encode({ e = why, w = string.match(lease, '([^:]*)$') })
    line = string.format('{"s":%s,"f":%.6f,', life.ran, now) .. sub(line, 2)
    life.ats = (life.ats and life.ats .. '\n' or '') .. line
    -- Crashes before the last progress count no more.
    local crashes = life.c - (stepped and head_of(call('HGET', STEPS, id)).crashes or 0)
    local ends
    if call('SREM', CANCEL, id) == 1 then
      life.s, ends = CANCELLED, CANCELLED_JOBS
      if stepped then drop_steps(STEPS, id) end
    elseif crashes >= tonumber(max_crashes) then
      life.s, ends = DEAD, DEAD_JOBS
      life.err = string.gsub(problem, '%%d', crashes, 1)
      dead[#dead + 1] = id
    else
      life.s = life.n > 0 and RETRYING or PENDING
      returned[#returned + 1] = id
    end
    if ends then
      life.fin = string.format('%.6f', now)
      if uniqueness_of(record) == 1 and not is_spent(SPENT, fingerprint_of(record), now) then
        call('HDEL', UNIQ, fingerprint_of(record))
      end
      if key_of(record) ~= '' and not (life.s == DEAD and keeps_turn(DEAD)) then leave(id, micros) end
      call('SREM', CRASHED, id)
      call('ZADD', ends, now, id)
      grow(growth, record, life.s == DEAD and FAILED or GONE)
      halt(GROUPS, HALTS, id, life, halted)
    else
      call('SADD', CRASHED, id)
      local limits = key_of(record) == '' and {} or limits_of()
      come(limits, id, record, life, score_of(rank_of(record), due_of(record, life)), micros)
    end
    call('HSET', LIFE, id, cjson.encode(life))
  end
end
if #returned > 0 or call('EXISTS', LIMITS, READY) == 2 then wake(IDLE, channel, queue, tries) end
return { returned, dead, write_growth(growth, ENDS, TELL, now), halted }
