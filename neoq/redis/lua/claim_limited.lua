-- As claim.lua, for a queue that has limits: each job that starts has its turn, and not more start than may.
-- keys: ready wait retry lease jobs life uniq idle paused crashed steps held spent
-- keys: lines busy turn limits pace paced tats
-- keys: stopped cancelled_jobs ends tell groups halts
-- takes: limit tail worker lease channel queue tries hears
-- arguments: those of claim.lua
-- result: as claim.lua, with heads of steps or "", and for each id 1 if its end concerns more than itself; or
--   {"limited"} where it has none any more, and claim.lua is to do it
-- complexity: O(log of the queue) a job, O(levels) with aging; at most 50 jobs, 100 that fall due, 150 of the
--   ready ones that are put in their line, and 50 lines that go on

limit = tonumber(limit)
local micros = clock()
local now = micros / 1000000
local limits = limits_of()
if not next(limits) then return { 'limited' } end

local function answer(due, ids, records, lives, heads, counted)
  if not due or due == math.huge then due = -1 end
  return { string.format('%.6f', now), string.format('%.6f', due), ids or {}, records or {}, lives or {}, heads or '',
    counted or {} }
end

if call('EXISTS', PAUSED) == 1 then
  if hears == '1' then call('SADD', IDLE, worker) end
  return answer()
end

-- Make ready, or put in line, what is due; return when the next will be.
local function promote(from)
  local members = call('ZRANGEBYSCORE', from, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 50)
  for at = 1, #members, 2 do
    local rank, id = sub(members[at], 1, 3), sub(members[at], 4)
    call('ZREM', from, members[at])
    local record = sound(call('HGET', JOBS, id)) or NO_RECORD
    local life = life_of(call('HGET', LIFE, id))
    come(limits, id, record, life, score_of(rank, tonumber(members[at + 1])), micros)
  end
  if #members > 0 then call('ZREMRANGEBYSCORE', HELD, '-inf', now) end
  return tonumber(call('ZRANGE', from, 0, 0, 'WITHSCORES')[2] or math.huge)
end
local due = math.min(promote(WAIT), promote(RETRY))

if limits.key_spacing then
  for _, key in ipairs(call('ZRANGEBYSCORE', PACED, '-inf', micros, 'LIMIT', 0, 50)) do
    call('ZREM', PACED, key)
    advance(limits, key, micros)
  end
  local past = call('ZRANGEBYSCORE', TATS, '-inf', micros, 'LIMIT', 0, 100)
  if #past > 0 then call('ZREM', TATS, unpack(past)) end
end

-- After a change of the limits a dead job may hold its line no more: a few are looked at with each claim.
if limits.free then
  local reply = call('HSCAN', TURN, string.format('%.0f', count_in(limits.free, 9007199254740991)), 'COUNT', 50)
  call('HSET', LIMITS, 'free', reply[1])
  if reply[1] == '0' then call('HDEL', LIMITS, 'free') else due = now end
  for at = 1, #reply[2], 2 do
    local id = reply[2][at]
    if life_of(call('HGET', LIFE, id)).s == DEAD and not keeps_turn(DEAD) then leave(id, micros) end
  end
  limits = limits_of(true) -- those that are off are gone with the last turn
end

-- After a change of the limits every line is looked at, a few with each claim.
if limits.scan then
  local from = limits.scan == 1 and '-' or '[' .. limits.scan
  for _ = 1, 20 do
    local member = call('ZRANGEBYLEX', LINES, from, '+', 'LIMIT', 0, 1)[1]
    if not member then
      if not limits.off then
        call('HDEL', LIMITS, 'scan')
      elseif call('EXISTS', TURN) == 0 then
        call('DEL', LIMITS)
      end
      from = nil
      break
    end
    local key = sub(member, 5, 4 + tonumber(sub(member, 1, 4)))
    if advance(limits, key, micros) < 50 then from = '[' .. sub(prefix_of(key), 1, -2) .. '\1' end
  end
  if from then
    call('HSET', LIMITS, 'scan', from == '-' and '1' or sub(from, 2))
    due = now
  end
end

-- How many may start, and when the next may where they are fewer than asked for.
local asked, tat, blocked = limit, nil, nil
if limits.max_running then
  limit = math.min(limit, limits.max_running - call('ZCARD', LEASE))
  if limit < asked then blocked = math.huge end
end
if limits.spacing then
  tat = math.max(micros, limits.tat or 0)
  limit = math.min(limit, math.floor((micros + limits.tolerance - tat) / limits.spacing + 1e-9) + 1)
end

-- The ready jobs in the order in which they are claimed. With aging each level has its own place, and the
-- oldest of a level counts as so many levels higher as it has waited.
local page, next_in_page, from, page_size = {}, 0, 0, math.max(1, math.min(limit, 50))
local levels, best
-- What is kept of jobs, and which have their turn, by id: each id is looked at once.
local stored_of, lives_of, turns = {}, {}, {}
local function look_up(some)
  local stored, found = call('HMGET', JOBS, unpack(some)), call('HMGET', LIFE, unpack(some))
  local turn = (limits.by_key or limits.off) and call('HMGET', TURN, unpack(some)) or {}
  for at, id in ipairs(some) do stored_of[id], lives_of[id], turns[id] = stored[at], found[at], turn[at] end
end
local function load_level(level)
  local low, high = level.rank * LEVEL, '(' .. string.format('%.0f', (level.rank + 1) * LEVEL)
  local found = call('ZRANGEBYSCORE', READY, string.format('%.0f', low), high, 'WITHSCORES', 'LIMIT', level.from, 20)
  level.from, level.at, level.page = level.from + #found / 2, 1, found
end
local function next_aged()
  if not levels then
    levels = {}
    local first = call('ZRANGE', READY, 0, 0, 'WITHSCORES')[2]
    while first do
      local level = { rank = math.floor(first / LEVEL), from = 0 }
      levels[#levels + 1] = level
      load_level(level)
      local above = string.format('%.0f', (level.rank + 1) * LEVEL)
      first = call('ZRANGEBYSCORE', READY, above, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    end
  end
  local best_level, best_due
  best = nil
  for _, level in ipairs(levels) do
    if level.at > #level.page and #level.page > 0 then load_level(level) end
    local score = level.page[level.at + 1]
    if score then
      local since = (score - level.rank * LEVEL) / 8000
      local counts = level.rank - math.floor((now - since) / limits.aging)
      if not best or counts < best_level or counts == best_level and since < best_due then
        best, best_level, best_due = level, counts, since
      end
    end
  end
  if not best then return nil end
  best.at = best.at + 2
  local id = best.page[best.at - 2]
  look_up({ id })
  return id
end
local function next_ready()
  if limits.aging then return next_aged() end
  if next_in_page == #page then
    page, next_in_page = call('ZRANGE', READY, from, from + page_size - 1), 0
    from, page_size = from + #page, 50
    if #page == 0 then return nil end
    look_up(page)
  end
  next_in_page = next_in_page + 1
  return page[next_in_page]
end

local wanted
if #ARGV >= FIRST then
  wanted = {}
  for at = FIRST, #ARGV do wanted[ARGV[at]] = true end
end

-- Whether a job may start now; where not, it has gone where it waits.
local function may_start(id, record, life)
  local key = limits.by_key and key_of(record) or ''
  if key == '' then return true end
  if not turns[id] then
    if is_full(limits, key) then
      call('ZREM', READY, id)
      call('ZADD', LINES, 0, line_member(key, record, life_of(life), id))
      return false
    end
    take_turn(id, key)
  end
  local start = start_of(limits, key, micros)
  if start > 0 then
    call('ZREM', READY, id)
    call('ZADD', WAIT, start / 1000000, waiting(record, id))
    due = math.min(due, start / 1000000)
    return false
  end
  if limits.key_spacing then
    local last = math.max(micros, tonumber(call('ZSCORE', TATS, key) or 0))
    call('ZADD', TATS, last + limits.key_spacing, key)
    if call('HGET', PACE, key) == id then call('HDEL', PACE, key) end
  end
  return true, key
end

local ids, records, lives, counted, keys = {}, {}, {}, {}, {}
local looked, alone, ended = 0, false, false
local crashes = call('EXISTS', CRASHED) == 1
local stops, growth, halted = call('EXISTS', STOPPED) == 1, {}, {}
local places = {
  ready = READY, held = HELD, wait = WAIT, retry = RETRY, crashed = CRASHED, steps = STEPS, uniq = UNIQ,
  cancelled = CANCELLED_JOBS, life = LIFE,
}

-- Whether a job was cancelled because its group is stopped: none of it starts.
local function is_stopped(id, record)
  local name = stops and name_of(record)
  if not name or not call('ZSCORE', STOPPED, name) then return false end
  local life = life_of(lives_of[id])
  cancel_waiting(id, record, life, now, places)
  leave(id, micros)
  grow_by(growth, name, GONE, 1)
  halt(GROUPS, HALTS, id, life, halted)
  return true
end

local gone, number = {}, 0
local function take(id, turn)
  number = number + 1
  gone[#gone + 1] = id
  ids[number], records[number], lives[number] = id, stored_of[id], lives_of[id]
  counted[number] = (turn or limits.max_running) and 1 or 0
end
local function consider(id)
  local record = sound(stored_of[id])
  if not record then
    gone[#gone + 1] = id -- deleted by hand
    return
  end
  if wanted and record ~= NO_RECORD and not wanted[kind_of(record)] then return end
  looked = looked + 1
  local crashed = crashes and call('SISMEMBER', CRASHED, id) == 1
  if crashed and number > 0 then -- claimed alone, at its turn
    alone = true
    return
  end
  local may, key = false, nil
  if not is_stopped(id, record) then may, key = may_start(id, record, lives_of[id]) end
  if may then
    take(id, key or limits.off and turns[id])
    if limits.key_spacing and key then keys[#keys + 1] = key end
    alone = crashed
  elseif limits.aging then
    best.from = best.from - 1
  else
    from = from - 1
  end
end

-- A job that has its turn, as most, starts at once where nothing else is asked for.
local plain = limits.by_key and not (limits.key_spacing or wanted or stops or crashes)
while number < limit and looked < 200 and not alone do
  local id = next_ready()
  if not id then
    ended = true
    break
  end
  if plain and turns[id] and stored_of[id] then
    looked = looked + 1
    take(id, true)
  else
    consider(id)
  end
end
if #gone > 0 then call('ZREM', READY, unpack(gone)) end
write_growth(growth, ENDS, TELL, now)
for _, key in ipairs(keys) do advance(limits, key, micros) end
if tat and #ids > 0 then
  tat = tat + #ids * limits.spacing
  call('HSET', LIMITS, 'tat', string.format('%.17g', tat))
end

local expires = string.format('%.6f', (micros + tonumber(lease)) / 1000000)
local leases = {}
for at, id in ipairs(ids) do
  leases[2 * at - 1], leases[2 * at] = expires, id .. tail
  local kind = byte(records[at])
  if (kind == 50 or kind == 53) and sound(records[at]) == records[at] then -- until started
    local fingerprint = fingerprint_of(records[at])
    if call('HGET', UNIQ, fingerprint) == id and not is_spent(SPENT, fingerprint, now) then
      call('HDEL', UNIQ, fingerprint)
    end
  end
end
local heads
if #ids > 0 then
  call('ZADD', LEASE, unpack(leases))
  if call('EXISTS', STEPS) == 1 then heads = call('HMGET', STEPS, unpack(ids)) end
end

if limits.key_spacing then
  due = math.min(due, (call('ZRANGE', PACED, 0, 0, 'WITHSCORES')[2] or math.huge) / 1000000)
end
if call('EXISTS', READY) == 1 and not (ended and wanted) then
  if tat and tat - limits.tolerance > micros then
    due = math.min(due, (tat - limits.tolerance) / 1000000)
  elseif not blocked or #ids >= limit and limits.max_running - call('ZCARD', LEASE) > 0 then
    due = math.min(due, now)
  end
end
local more = due <= now
if #ids >= asked or more then
  call('SREM', IDLE, worker)
  if due < math.huge then wake(IDLE, channel, queue, tries) end
elseif hears == '1' then
  call('SADD', IDLE, worker)
end
return answer(due, ids, records, lives, heads, counted)
