-- Record that jobs have succeeded, each only under its current lease.
-- keys: lease runs jobs life uniq done_jobs payloads results progress cancel crashed ids
-- arguments: 1 to keep them for a while, 1 if this is said again after a lost reply; then for each job: id, token
--   and a colon, life as JSON, result
-- result: ids of the stale ones
-- complexity: O(log of the queue) a job; at most 500 jobs

local keep, again = ARGV[1] == '1', ARGV[2] == '1'
local FIRST, STEP = 3, 4
local now = clock() / 1000000

local asked = {}
for at = FIRST, #ARGV, STEP do asked[#asked + 1] = ARGV[at] end
local runs = call('HMGET', RUNS, unpack(asked))
local stale, live, places = {}, {}, {}
for at, id in ipairs(asked) do
  local place = FIRST + (at - 1) * STEP
  local token = ARGV[place + 1]
  if runs[at] and string.sub(runs[at], 1, #token) == token then
    runs[at] = false -- the same job twice in one batch: the second is stale
    live[#live + 1] = id
    places[#places + 1] = place
  else
    local known = again and call('HGET', LIFE, id)
    if not again or known and cjson.decode(known).t ~= token then stale[#stale + 1] = id end
  end
end
if #live == 0 then return stale end

call('ZREM', LEASE, unpack(live))
call('HDEL', RUNS, unpack(live))
local prints = {}
for at, record in ipairs(call('HMGET', JOBS, unpack(live))) do
  if record and string.byte(record) == 49 then prints[#prints + 1] = fingerprint_of(record) end
end
if #prints > 0 then call('HDEL', UNIQ, unpack(prints)) end
if call('EXISTS', CANCEL) == 1 then call('SREM', CANCEL, unpack(live)) end
if call('EXISTS', CRASHED) == 1 then call('SREM', CRASHED, unpack(live)) end
if call('EXISTS', PROGRESS) == 1 then call('HDEL', PROGRESS, unpack(live)) end
if not keep then
  call('HDEL', JOBS, unpack(live))
  call('HDEL', LIFE, unpack(live))
  call('ZREM', IDS, unpack(live))
  if call('EXISTS', PAYLOADS) == 1 then call('HDEL', PAYLOADS, unpack(live)) end
  return stale
end

local lives, ends, results = {}, {}, {}
for at, before in ipairs(call('HMGET', LIFE, unpack(live))) do
  local id, place = live[at], places[at]
  local life = ARGV[place + 2]
  if before then
    local merged = cjson.decode(before)
    for name, value in pairs(cjson.decode(life)) do merged[name] = value end
    life = cjson.encode(merged)
  end
  lives[#lives + 1] = id
  lives[#lives + 1] = life
  ends[#ends + 1] = now
  ends[#ends + 1] = id
  if ARGV[place + 3] ~= '' then
    results[#results + 1] = id
    results[#results + 1] = ARGV[place + 3]
  end
end
call('HSET', LIFE, unpack(lives))
call('ZADD', DONE_JOBS, unpack(ends))
if #results > 0 then call('HSET', RESULTS, unpack(results)) end
return stale
