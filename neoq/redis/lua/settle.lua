-- Record how attempts ended that did not succeed, each only under its current lease.
-- keys: lease jobs life uniq dead_jobs cancelled_jobs ready wait retry progress cancel crashed idle results
-- keys: steps held
-- takes: again channel queue tries
-- arguments: 1 if this repeats a call whose reply was lost, the prefix of the workers' channels, the queue,
--   how many workers to call; then for each job: id, lease, what changes in its life as JSON, with the number
--   of its steps and the signal that it waits for, result, and name and value of each step
-- result: ids of the stale ones
-- complexity: O(log of the queue) a job; at most 50 jobs

again = again == '1'
local now = clock() / 1000000
local stale, call_one = {}, false

local at = FIRST
while at <= #ARGV do
  local change = cjson.decode(ARGV[at + 2])
  local steps, awaits = change.steps or 0, change.awaits
  local id, lease = ARGV[at], ARGV[at + 1]
  local record = sound(call('HGET', JOBS, id))
  local life = life_of(call('HGET', LIFE, id))
  if not record or call('ZREM', LEASE, lease) == 0 then
    if not again or life.t ~= lease then stale[#stale + 1] = id end
  else
    local charged, status, timeout = change.charged, change.s, change.at
    change.charged, change.steps, change.awaits = nil, nil, nil
    life.h, life.aw = nil, nil
    for name, value in pairs(change) do life[name] = value end
    if charged then life.n = life.n + 1 end
    if status ~= DEAD and status ~= CANCELLED and call('SISMEMBER', CANCEL, id) == 1 then
      status = CANCELLED -- cancelled as it ran: it is not tried again
      life.fin = string.format('%.6f', now)
    end
    life.s = status
    life.t = lease
    call('SREM', CANCEL, id)
    call('HDEL', PROGRESS, id)
    if status == CANCELLED then
      drop_steps(STEPS, id)
    elseif steps > 0 then
      write_steps(STEPS, id, now, at + 4, steps)
    end
    if status == DEAD or status == CANCELLED then
      if uniqueness_of(record) == 1 then call('HDEL', UNIQ, fingerprint_of(record)) end
      call('SREM', CRASHED, id)
      call('ZADD', status == DEAD and DEAD_JOBS or CANCELLED_JOBS, now, id)
    else
      local due = due_of(record, life)
      if awaits then
        due = timeout_of(record, life, timeout)
        if call('HEXISTS', STEPS, id .. ':' .. awaits) == 1 then
          due, life.at = now, string.format('%.6f', now)
        elseif due > now then
          life.h, life.aw = 'signal', awaits
          if due < math.huge then life.at = string.format('%.6f', due) end
          call('ZADD', HELD, due, id)
        end
      end
      if due <= now then
        call('ZADD', READY, score_of(rank_of(record), due), id)
      else
        call('ZADD', status == RETRYING and RETRY or WAIT, due, waiting(record, id))
      end
      call_one = true
    end
    if ARGV[at + 3] ~= '' then call('HSET', RESULTS, id, ARGV[at + 3]) end
    call('HSET', LIFE, id, cjson.encode(life))
  end
  at = at + 4 + 2 * steps
end
if call_one then wake(IDLE, channel, queue, tries) end
return stale
