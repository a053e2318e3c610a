-- Record that jobs have succeeded, each only under its current lease.
-- keys: lease jobs life uniq done_jobs payloads results progress cancel crashed ids
-- arguments: 1 to keep them for a while, 1 if this is said again after a lost reply, number of jobs; then their
--   leases; id and life as JSON of each; id and result of those that have one
-- result: ids of the stale ones
-- complexity: O(log of the queue) a job; at most 50 jobs

local keep, again, count = ARGV[1] == '1', ARGV[2] == '1', tonumber(ARGV[3])
local now = clock() / 1000000
local LEASES, LIVES, RESULTS_AT = 4, 4 + count, 4 + 3 * count

local scores = call('ZMSCORE', LEASE, unpack(ARGV, LEASES, LEASES + count - 1))
local stale, live, leases, lives, seen = {}, {}, {}, {}, {}
for place = 1, count do
  local lease, id = ARGV[LEASES + place - 1], ARGV[LIVES + 2 * place - 2]
  if scores[place] and not seen[id] then
    local number = #live + 1
    seen[id] = true
    live[number], leases[number] = id, lease
    lives[2 * number - 1], lives[2 * number] = id, ARGV[LIVES + 2 * place - 1]
  else
    local known = again and call('HGET', LIFE, id)
    if not again or known and cjson.decode(known).t ~= lease then stale[#stale + 1] = id end
  end
end
if #live == 0 then return stale end

call('ZREM', LEASE, unpack(leases))
local prints, apart = {}, false
for _, record in ipairs(call('HMGET', JOBS, unpack(live))) do
  if record then
    local unique = byte(record)
    if unique == 49 or unique == 52 then prints[#prints + 1] = fingerprint_of(record) end
    apart = apart or unique > 50
  end
end
if #prints > 0 then call('HDEL', UNIQ, unpack(prints)) end
if call('EXISTS', CANCEL) == 1 then call('SREM', CANCEL, unpack(live)) end
if call('EXISTS', CRASHED) == 1 then call('SREM', CRASHED, unpack(live)) end
if call('EXISTS', PROGRESS) == 1 then call('HDEL', PROGRESS, unpack(live)) end
if not keep then
  call('HDEL', JOBS, unpack(live))
  call('HDEL', LIFE, unpack(live))
  call('ZREM', IDS, unpack(live))
  if apart then call('HDEL', PAYLOADS, unpack(live)) end
  return stale
end

local ends = {}
for at, before in ipairs(call('HMGET', LIFE, unpack(live))) do
  if before then
    local merged = cjson.decode(before)
    for name, value in pairs(cjson.decode(lives[2 * at])) do merged[name] = value end
    lives[2 * at] = cjson.encode(merged)
  end
  ends[2 * at - 1], ends[2 * at] = now, live[at]
end
call('HSET', LIFE, unpack(lives))
call('ZADD', DONE_JOBS, unpack(ends))
for at = RESULTS_AT, #ARGV, 2 do
  if seen[ARGV[at]] then call('HSET', RESULTS, ARGV[at], ARGV[at + 1]) end
end
return stale
