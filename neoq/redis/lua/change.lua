-- Cancel, retry or delete jobs, or run now those that wait for a later time.
-- keys: jobs life payloads results ready wait retry cancel crashed uniq done_jobs dead_jobs cancelled_jobs ids idle
-- keys: steps held members ends tell groups halts stopped
-- keys: spent
-- keys: lines busy turn limits pace paced tats
-- takes: action channel queue tries
-- arguments: cancel, retry, delete or run, the prefix of the workers' channels, the queue, how many workers to
--   try; then ids
-- result: {ids that it was done to, ids that run, whose workers the client notifies, and id and holder of
--   each that cannot be retried, for its fingerprint is taken, names of groups and their totals, names of
--   groups that are to be stopped}
-- complexity: O(log of the queue) a job; at most 50 jobs

local micros = clock()
local now = micros / 1000000
local done, running, taken = {}, {}, {}
local growth, halted = {}, {}

local function take_out(id, record, life)
  local key = key_of(record)
  if key ~= '' then call('ZREM', LINES, line_member(key, record, life, id)) end
  call('ZREM', READY, id)
  call('ZREM', HELD, id)
  call('ZREM', WAIT, unpack(waiting_of(record, id)))
  call('ZREM', RETRY, unpack(waiting_of(record, id)))
end

local function give_up_turn(id, record)
  if key_of(record) ~= '' and leave(id, micros) > 0 then wake(IDLE, channel, queue, tries) end
end

local function release(id, record)
  local fingerprint = fingerprint_of(record)
  if uniqueness_of(record) == 0 or is_spent(SPENT, fingerprint, now) then return end
  if call('HGET', UNIQ, fingerprint) == id then call('HDEL', UNIQ, fingerprint) end
end

local function cancel(id, record, life)
  if life.s >= SUCCEEDED then return false end
  take_out(id, record, life)
  give_up_turn(id, record)
  release(id, record)
  call('SREM', CRASHED, id)
  drop_steps(STEPS, id)
  life.s = CANCELLED
  life.fin = string.format('%.6f', now)
  call('ZADD', CANCELLED_JOBS, now, id)
  call('HSET', LIFE, id, cjson.encode(life))
  grow(growth, record, GONE)
  halt(GROUPS, HALTS, id, life, halted)
  return true
end

local function retry(id, record, life)
  if life.s == SUCCEEDED or life.s == CANCELLED or is_held(HELD, id, now) then return false end
  local due = now
  if life.s == DEAD then
    local holder = uniqueness_of(record) ~= 0 and call('HGET', UNIQ, fingerprint_of(record))
    if holder and holder ~= id and (is_unfinished(JOBS, LIFE, holder) or is_spent(SPENT, fingerprint_of(record), now)) then
      taken[#taken + 1] = id
      taken[#taken + 1] = holder
      return false
    end
    local name = name_of(record)
    if name and call('ZSCORE', STOPPED, name) then return false end
    grow(growth, record, REVIVED)
    life = { s = PENDING, n = 0, c = 0, r = life.r, err = life.err, tb = life.tb, ats = life.ats, ran = life.ran, nodl = true }
    if uniqueness_of(record) ~= 0 then call('HSET', UNIQ, fingerprint_of(record), id) end
    call('ZREM', DEAD_JOBS, id)
    restart_steps(STEPS, id)
  else
    due = math.min(now, due_of(record, life))
    if is_in_line(record, life, id) then return true end -- it is due already, and keeps its place
    take_out(id, record, life)
  end
  life.at = string.format('%.6f', due)
  call('HSET', LIFE, id, cjson.encode(life))
  local limits = key_of(record) == '' and {} or limits_of()
  come(limits, id, record, life, score_of(rank_of(record), due), micros)
  wake(IDLE, channel, queue, tries)
  return true
end

local function run(id, record, life)
  return life.s < SUCCEEDED and due_of(record, life) > now and retry(id, record, life)
end

local function delete(id, record, life)
  if is_held(HELD, id, now) then return false end
  if life.s < SUCCEEDED or life.s == DEAD then grow(growth, record, GONE) end
  if life.s == DEAD then grow(growth, record, REVIVED) end
  halt(GROUPS, HALTS, id, life, halted)
  forget_holder(GROUPS, HALTS, id, life)
  local name = name_of(record)
  if name then call('ZREM', MEMBERS, member_of(name, id)) end
  take_out(id, record, life)
  give_up_turn(id, record)
  release(id, record)
  drop_steps(STEPS, id)
  call('SREM', CRASHED, id)
  for _, key in ipairs({ JOBS, LIFE, PAYLOADS, RESULTS }) do call('HDEL', key, id) end
  for _, key in ipairs({ IDS, DONE_JOBS, DEAD_JOBS, CANCELLED_JOBS }) do call('ZREM', key, id) end
  return true
end

local acts = { cancel = cancel, retry = retry, delete = delete, run = run }
for at = FIRST, #ARGV do
  local id = ARGV[at]
  local record = sound(call('HGET', JOBS, id))
  local life = record and life_of(call('HGET', LIFE, id))
  if record and is_running(READY, WAIT, RETRY, id, record, life) then
    if action == 'cancel' then
      call('SADD', CANCEL, id)
      running[#running + 1] = id
    end
  elseif record and acts[action](id, record, life) then
    done[#done + 1] = id
  end
end
local told = write_growth(growth, ENDS, TELL, now)
return { done, running, taken, told, halted }
