-- Take the best due jobs of a queue under a new lease.
-- keys: ready wait retry lease runs jobs life payloads uniq idle paused crashed
-- arguments: limit, token, worker, lease in microseconds, the channel of workers, the queue, how many
--   workers to call, 1 if the worker is to be called for what comes; then kinds, where only these are wanted
-- result: {now, due (-1 for never), ids, records, lives, payloads}
-- complexity: O(log of the queue) a job; at most 500 jobs, and 500 that fall due

local limit, token, worker = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local micros = clock()
local now = micros / 1000000

local function answer(due, ids, records, lives, payloads)
  return { string.format('%.6f', now), due, ids or {}, records or {}, lives or {}, payloads or {} }
end

if call('EXISTS', PAUSED) == 1 then
  if ARGV[8] == '1' then call('SADD', IDLE, worker) end
  return answer('-1')
end

local function promote(from)
  local members = call('ZRANGEBYSCORE', from, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 500)
  if #members == 0 then return end
  local gone, ready = {}, {}
  for at = 1, #members, 2 do
    gone[#gone + 1] = members[at]
    ready[#ready + 1] = score_of('xxx' .. members[at], tonumber(members[at + 1]))
    ready[#ready + 1] = string.sub(members[at], 4)
  end
  call('ZREM', from, unpack(gone))
  call('ZADD', READY, unpack(ready))
end
promote(WAIT)
promote(RETRY)

local ids
if #ARGV > 8 then
  local wanted = {}
  for at = 9, #ARGV do wanted[ARGV[at]] = true end
  ids = {}
  local best = call('ZRANGE', READY, 0, 999)
  if #best > 0 then
    for at, record in ipairs(call('HMGET', JOBS, unpack(best))) do
      if #ids < limit and record and wanted[kind_of(record)] then ids[#ids + 1] = best[at] end
    end
  end
  if #ids > 0 then call('ZREM', READY, unpack(ids)) end
elseif call('EXISTS', CRASHED) == 1 then
  -- A job with a crash behind it is claimed alone, at its turn.
  ids = {}
  local best = call('ZRANGE', READY, 0, limit - 1)
  for at, id in ipairs(best) do
    local crashed = call('SISMEMBER', CRASHED, id) == 1
    if crashed and at > 1 then break end
    ids[at] = id
    if crashed then break end
  end
  if #ids > 0 then call('ZREM', READY, unpack(ids)) end
else
  ids = {}
  local popped = call('ZPOPMIN', READY, limit)
  for at = 1, #popped, 2 do ids[#ids + 1] = popped[at] end
end

local full = #ids >= limit
local records, lives, payloads = {}, {}, {}
if #ids > 0 then
  records = call('HMGET', JOBS, unpack(ids))
  lives = call('HMGET', LIFE, unpack(ids))
  local leases, runs, large = {}, {}, nil
  local expires = (micros + tonumber(ARGV[4])) / 1000000
  local run = token .. ':' .. string.format('%.6f', now) .. ':' .. worker
  for at, id in ipairs(ids) do
    local record = records[at]
    if record then
      leases[#leases + 1] = expires
      leases[#leases + 1] = id
      runs[#runs + 1] = id
      runs[#runs + 1] = run
      local unique = string.byte(record)
      if unique == 50 then
        local print = fingerprint_of(record)
        if call('HGET', UNIQ, print) == id then call('HDEL', UNIQ, print) end
      end
      if string.byte(record, 3) == 76 then large = true end
    end
  end
  if #runs > 0 then
    call('ZADD', LEASE, unpack(leases))
    call('HSET', RUNS, unpack(runs))
  end
  if large then payloads = call('HMGET', PAYLOADS, unpack(ids)) end
end

local due = '-1'
if call('EXISTS', READY) == 1 then
  due = string.format('%.6f', now)
else
  local head = call('ZRANGE', WAIT, 0, 0, 'WITHSCORES')[2]
  local other = call('ZRANGE', RETRY, 0, 0, 'WITHSCORES')[2]
  if head and (not other or tonumber(head) <= tonumber(other)) then due = head elseif other then due = other end
end
if full or due ~= '-1' and tonumber(due) <= now then
  call('SREM', IDLE, worker)
  if due ~= '-1' then wake(IDLE, ARGV[5], ARGV[6], tonumber(ARGV[7])) end
elseif ARGV[8] == '1' then
  call('SADD', IDLE, worker)
end
return answer(due, ids, records, lives, payloads)
