-- As claim.lua, for a queue that has limits: each job that starts has its turn, and not more start than may.
-- keys: ready wait retry lease jobs life uniq idle paused crashed steps held spent
-- keys: lines busy turn limits pace paced tats
-- keys: stopped cancelled_jobs ends tell groups halts
-- takes: limit tail idler lease channel queue tries hears
-- arguments: those of claim.lua
-- result: as claim.lua, with heads of steps or "", the jobs in turn with the scores that they had among the ready
--   ones, and 1 if the end of each concerns more than itself, whether it has a key or not; or {"limited"} where
--   it has none any more, and claim.lua is to do it
-- complexity: O(log of the queue) a job, O(levels) with aging; at most 50 jobs, 100 that fall due, 100 that were
--   ready before there were limits, 150 of the ready ones that are put in their line, and 50 lines that go on

limit = tonumber(limit)
local micros = clock()
local now = micros / 1000000
local limits = limits_of()
if not next(limits) then return { 'limited' } end

local function answer(due, ids, records, lives, heads, scores)
  if not due or due == math.huge then due = -1 end
  return { string.format('%.6f', now), string.format('%.6f', due), ids or {}, records or {}, lives or {}, heads or '',
    scores or {}, limits.max_running and 1 or 0 }
end

if call('EXISTS', PAUSED) == 1 then
  if hears == '1' then call('ZADD', IDLE, 0, idler) end
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
    if advance(limits, key, micros) < 50 then from = '[' .. start_of_line(key) .. '\1' end
  end
  if from then
    call('HSET', LIMITS, 'scan', from == '-' and '1' or sub(from, 2))
    due = now
  end
end

-- After the queue got limits by key, what was ready is put in its lines, a portion with each claim. Until then only
-- what is before the first that was not looked at may start: of a later one it is not known who is before it.
local front_score, front
if limits.form and limits.by_key then
  form(limits, 100, micros)
  if limits.form then
    front_score, front = front_of(limits)
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
local page, next_in_page, from, page_size = {}, -1, 0, math.max(1, math.min(limit, 50))
local levels, best
-- What is kept of jobs, and which have their turn, by id: each id is looked at once.
local stored_of, lives_of, turns, scores_of = {}, {}, {}, {}
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
    while first and not (front and math.floor(first / LEVEL) > math.floor(front_score / LEVEL)) do
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
    local score = level.page[level.at] ~= front and level.page[level.at + 1]
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
  scores_of[id] = best.page[best.at - 1]
  look_up({ id })
  return id
end
-- The next jobs with their scores: ``page`` has both in turn.
local function load_page(found)
  local some = {}
  page, next_in_page = found, -1
  for at = 1, #page, 2 do
    local id = page[at]
    some[(at + 1) / 2], scores_of[id] = id, page[at + 1]
  end
  if #some > 0 then look_up(some) end
  return #some
end
local function next_ready()
  if limits.aging then return next_aged() end
  if next_in_page + 2 > #page then
    from = from + load_page(call('ZRANGE', READY, from, from + page_size - 1, 'WITHSCORES'))
    page_size = 50
    if #page == 0 then return nil end
  end
  if page[next_in_page + 2] == front then return nil end
  next_in_page = next_in_page + 2
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

local ids, records, lives, scores, keys = {}, {}, {}, {}, {}
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
local function take(id)
  number = number + 1
  ids[number], records[number], lives[number] = id, stored_of[id], lives_of[id]
  scores[2 * number - 1], scores[2 * number] = id, scores_of[id]
end
local function consider(id)
  local record = sound(stored_of[id])
  if not record then -- deleted by hand
    gone[#gone + 1] = id
    if turns[id] then leave(id, micros) end
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
    take(id)
    gone[#gone + 1] = id
    if limits.key_spacing and key then keys[#keys + 1] = key end
    alone = crashed
  elseif limits.aging then
    best.from = best.from - 1
  else
    from = from - 1
  end
end

-- Take out the best jobs, as many as may start. Nearly all have their turn, and are taken as they come; where
-- one has not, or is gone, each is looked at. Returns whether there was one.
local function pop()
  local most = math.min(limit - number, 50)
  if front then most = math.min(most, call('ZRANK', READY, front) or 0) end
  local popped, some, good = call('ZPOPMIN', READY, most), {}, true
  local count = #popped / 2
  if count == 0 then return false end
  for at = 1, count do some[at] = popped[2 * at - 1] end
  local turn, stored = call('HMGET', TURN, unpack(some)), call('HMGET', JOBS, unpack(some))
  for at = 1, count do good = good and turn[at] and stored[at] end
  looked = looked + count
  if good and number == 0 then
    ids, records, lives, scores, number = some, stored, call('HMGET', LIFE, unpack(some)), popped, count
    return true
  end
  load_page(popped)
  for at = 1, count do
    if turn[at] and stored[at] then take(some[at]) else consider(some[at]) end
  end
  return true
end

if limits.by_key and not (limits.aging or limits.key_spacing or wanted or stops or crashes) then
  while number < limit and looked < 200 and not ended do ended = not pop() end
  gone = {}
end
while number < limit and looked < 200 and not alone and not ended do
  local id = next_ready()
  if id then consider(id) else ended = true end
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
  call('ZREM', IDLE, idler)
  if due < math.huge then wake(IDLE, channel, queue, tries) end
elseif hears == '1' then
  call('ZADD', IDLE, 0, idler)
end
return answer(due, ids, records, lives, heads, scores)
