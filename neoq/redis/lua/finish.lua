-- Record that jobs have succeeded, each only under its current lease.
-- keys: lease jobs life uniq done_jobs payloads results progress cancel crashed ids steps spent turn
-- takes: keep again count
-- arguments: 1 to keep them for a while, 1 if this repeats a call whose reply was lost, number of jobs; then
--   their leases; the fingerprints that they hold ("" for none); id and life as JSON of each; id and result
--   of those that have one. Nobody changes a job's record and life while it is leased: the worker
--   that claimed it knows them
-- result: ids of the stale ones; or {"limited"} where the queue has limits that these jobs count for, though they
--   were claimed before, and finish_counted.lua is to do it
-- complexity: O(log of the queue) a job; at most 50 jobs

keep, again, count = keep == '1', again == '1', tonumber(count)
local now = clock() / 1000000
local ended = string.format('%.6f', now) -- a text: the server would write each number anew
local LEASES, FINGERPRINTS, LIVES, RESULTS_AT = FIRST, FIRST + count, FIRST + 2 * count, FIRST + 4 * count

local scores = call('ZMSCORE', LEASE, unpack(ARGV, LEASES, LEASES + count - 1))
local stale, live, leases, fingerprints, lives, ends, seen = {}, {}, {}, {}, {}, {}, {}
local number = 0
for place = 1, count do
  local lease, fingerprint, id = ARGV[LEASES + place - 1], ARGV[FINGERPRINTS + place - 1], ARGV[LIVES + 2 * place - 2]
  if scores[place] and not seen[id] then
    seen[id] = true
    number = number + 1
    live[number], leases[number] = id, lease
    lives[2 * number - 1], lives[2 * number] = id, ARGV[LIVES + 2 * place - 1]
    ends[2 * number - 1], ends[2 * number] = ended, id
    if fingerprint ~= '' then fingerprints[#fingerprints + 1] = fingerprint end
  else
    local known = again and call('HGET', LIFE, id)
    if not again or known and life_of(known).t ~= lease then stale[#stale + 1] = id end
  end
end
if number == 0 then return stale end

local more = call('EXISTS', CANCEL, CRASHED, PROGRESS, STEPS, SPENT, TURN) > 0
if more and call('EXISTS', TURN) == 1 then
  for _, key in ipairs(call('HMGET', TURN, unpack(live))) do
    if key then return { 'limited' } end
  end
end
call('ZREM', LEASE, unpack(leases))
if more then fingerprints = unspent(SPENT, fingerprints, now) end
if #fingerprints > 0 then call('HDEL', UNIQ, unpack(fingerprints)) end
if more then
  call('SREM', CANCEL, unpack(live))
  call('SREM', CRASHED, unpack(live))
  call('HDEL', PROGRESS, unpack(live))
  drop_steps_of(STEPS, live)
end
if not keep then
  call('HDEL', JOBS, unpack(live))
  call('HDEL', LIFE, unpack(live))
  call('ZREM', IDS, unpack(live))
  if call('EXISTS', PAYLOADS) == 1 then call('HDEL', PAYLOADS, unpack(live)) end
  return stale
end

call('HSET', LIFE, unpack(lives))
call('ZADD', DONE_JOBS, unpack(ends))
for at = RESULTS_AT, #ARGV, 2 do
  if seen[ARGV[at]] then call('HSET', RESULTS, ARGV[at], ARGV[at + 1]) end
end
return stale
