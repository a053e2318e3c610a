-- Take the best due jobs of a queue under a new lease.
-- keys: ready wait retry lease jobs life uniq idle paused crashed steps held
-- keys: stopped cancelled_jobs ends tell groups halts
-- keys: limits spent
-- takes: limit tail idler lease channel queue tries hears
-- arguments: limit, what its leases end in (":token:worker"), the worker's name among those that are idle, lease
--   in microseconds, the prefix of the workers' channels, the queue, how many workers to try, 1 if the worker
--   waits for a wake; then kinds, where only these are wanted
-- result: {now, due (-1 for never), ids, records, lives, and heads of their steps where any job has some},
--   or {"limited"} where claim_limited.lua is to do it;
--   payloads kept apart are for the client to fetch
-- complexity: O(log of the queue) a job, and O(1) for each of another kind before it; at most 50 jobs, and 100
--   that fall due

limit = tonumber(limit)
local micros = clock()
local now = micros / 1000000

local function answer(due, ids, records, lives, heads)
  if due == 'inf' then due = '-1' end
  return { string.format('%.6f', now), due, ids or {}, records or {}, lives or {}, heads }
end

-- Most queues have nothing but ready jobs: one command tells.
local special = call('EXISTS', PAUSED, CRASHED, WAIT, RETRY, STEPS, STOPPED, LIMITS) > 0
if special and call('EXISTS', LIMITS) == 1 then return { 'limited' } end
local stops = special and call('EXISTS', STOPPED) == 1
if special and call('EXISTS', PAUSED) == 1 then
  if hears == '1' then call('ZADD', IDLE, 0, idler) end
  return answer('-1')
end

-- Make ready what is due; return when the next will be.
local function promote(from)
  local members = call('ZRANGE', from, 0, 0, 'WITHSCORES')
  if not members[2] or tonumber(members[2]) > now then return members[2] end
  members = call('ZRANGEBYSCORE', from, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 50)
  local gone, ready = {}, {}
  for at = 1, #members, 2 do
    gone[#gone + 1] = members[at]
    ready[#ready + 1] = score_of(sub(members[at], 1, 3), tonumber(members[at + 1]))
    ready[#ready + 1] = sub(members[at], 4)
  end
  call('ZREM', from, unpack(gone))
  if from == WAIT then call('ZREMRANGEBYSCORE', HELD, '-inf', now) end
  call('ZADD', READY, unpack(ready))
  return call('ZRANGE', from, 0, 0, 'WITHSCORES')[2]
end
local head, other, stepped
if special then
  stepped = call('EXISTS', STEPS) == 1
  head, other = promote(WAIT), promote(RETRY)
  special = call('EXISTS', CRASHED) == 1
end
if not head or other and tonumber(other) < tonumber(head) then head = other end

local ids = {}
if #ARGV >= FIRST then
  local wanted = {}
  for at = FIRST, #ARGV do wanted[ARGV[at]] = true end
  local from, page = 0, limit + 10
  repeat
    local best = call('ZRANGE', READY, from, from + page - 1)
    if #best == 0 then break end
    for at, record in ipairs(call('HMGET', JOBS, unpack(best))) do
      if #ids < limit and record and (sound(record) ~= record or wanted[kind_of(record)]) then
        local crashed = special and call('SISMEMBER', CRASHED, best[at]) == 1
        if not crashed or #ids == 0 then ids[#ids + 1] = best[at] end
        if crashed then limit = #ids end -- claimed alone, as below
      end
    end
    from, page = from + #best, 200
  until #ids >= limit
  special = false
  if #ids > 0 then call('ZREM', READY, unpack(ids)) end
elseif special then
  -- A job with a crash behind it is claimed alone, at its turn.
  for at, id in ipairs(call('ZRANGE', READY, 0, limit - 1)) do
    local crashed = call('SISMEMBER', CRASHED, id) == 1
    if crashed and at > 1 then break end
    ids[at] = id
    if crashed then break end
  end
  if #ids > 0 then call('ZREM', READY, unpack(ids)) end
else
  local popped = call('ZPOPMIN', READY, limit)
  for at = 1, #popped / 2 do ids[at] = popped[2 * at - 1] end
end

-- No job of a stopped group starts.
local function leave_out()
  local growth, halted, left = {}, {}, {}
  local keys = {
    ready = READY, held = HELD, wait = WAIT, retry = RETRY, crashed = CRASHED, steps = STEPS, uniq = UNIQ,
    cancelled = CANCELLED_JOBS, life = LIFE,
  }
  for at, record in ipairs(call('HMGET', JOBS, unpack(ids))) do
    record = sound(record)
    local name = record and name_of(record)
    if name and call('ZSCORE', STOPPED, name) then
      local life = life_of(call('HGET', LIFE, ids[at]))
      cancel_waiting(ids[at], record, life, now, keys)
      grow_by(growth, name, GONE, 1)
      halt(GROUPS, HALTS, ids[at], life, halted)
    else
      left[#left + 1] = ids[at]
    end
  end
  write_growth(growth, ENDS, TELL, now)
  return left
end

local found = #ids
if stops and found > 0 then ids = leave_out() end

local records, lives, heads = {}, {}, nil
if #ids > 0 then
  records = call('HMGET', JOBS, unpack(ids))
  lives = call('HMGET', LIFE, unpack(ids))
  if stepped then heads = call('HMGET', STEPS, unpack(ids)) end
  local leases, number = {}, 0
  local expires = string.format('%.6f', (micros + tonumber(lease)) / 1000000)
  for at, id in ipairs(ids) do
    local record = records[at]
    if record then
      leases[number + 1], leases[number + 2] = expires, id .. tail
      number = number + 2
      local kind = byte(record)
      if (kind == 50 or kind == 53) and sound(record) == record then -- until started
        local fingerprint = fingerprint_of(record)
        if call('HGET', UNIQ, fingerprint) == id and not is_spent(SPENT, fingerprint, now) then
          call('HDEL', UNIQ, fingerprint)
        end
      end
    end
  end
  if number > 0 then call('ZADD', LEASE, unpack(leases)) end
end

local due = head or '-1'
if (found >= limit or special) and call('EXISTS', READY) == 1 then due = string.format('%.6f', now) end
if found >= limit or due ~= '-1' and tonumber(due) <= now then
  call('ZREM', IDLE, idler)
  if due ~= '-1' then wake(IDLE, channel, queue, tries) end
elseif hears == '1' then
  call('ZADD', IDLE, 0, idler)
end
return answer(due, ids, records, lives, heads)
