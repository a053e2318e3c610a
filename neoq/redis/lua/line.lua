-- The limits of a queue, as lines.py writes them; each that is none is nil. They are read once in a run.
local known_limits
local function limits_of(afresh)
  if known_limits and not afresh then return known_limits end
  local limits, found = {}, call('HGETALL', LIMITS)
  for at = 1, #found, 2 do
    limits[found[at]] = tonumber(found[at + 1]) or found[at + 1]
  end
  known_limits = limits
  return limits
end

-- The members of lines that are of one key begin with this, and of no other one.
local function prefix_of(key)
  return string.format('%04d', #key) .. key .. '\0'
end

local function line_member(key, record, life, id)
  local due = math.floor(math.min(math.max(due_of(record, life), 0), 9e9) * 1000000)
  return prefix_of(key) .. rank_of(record) .. string.format('%016.0f', due) .. string.rep('0', 16 - #id) .. id
end

local function id_in_line(member)
  local id = sub(member, -16)
  return byte(id) == 48 and string.gsub(id, '^0+', '') or id
end

local function is_in_line(record, life, id)
  local key = key_of(record)
  return key ~= '' and call('ZSCORE', LINES, line_member(key, record, life, id))
end

-- Whether a job runs: it neither waits nor has ended.
local function is_running(ready, wait, retry, id, record, life)
  if life.s >= SUCCEEDED or call('ZSCORE', ready, id) then return false end
  local members = waiting_of(record, id)
  for _, place in ipairs({ wait, retry }) do
    for _, score in ipairs(call('ZMSCORE', place, unpack(members))) do
      if score then return false end
    end
  end
  return not is_in_line(record, life, id)
end

local function take_turn(id, key)
  call('HSET', TURN, id, key)
  call('HINCRBY', BUSY, key, 1)
end

-- When the next job of a key may start by its rate: 0 for now.
local function start_of(limits, key, micros)
  if not limits.key_spacing then return 0 end
  local tat = tonumber(call('ZSCORE', TATS, key) or 0)
  local start = tat - limits.key_tolerance
  return start > micros and start or 0
end

local function is_full(limits, key)
  return limits.slots and count_in(call('HGET', BUSY, key), 1000000000) >= limits.slots
end

-- Make ready those that are first in their lines, each of the key at its place; ``counts`` has how many of each
-- key are added to it. One whose record is gone only leaves its line.
local function make_ready(limits, heads, keys, micros, counts)
  call('ZREM', LINES, unpack(heads))
  local ids, scores, ready, turns, changed = {}, {}, {}, {}, {}
  for at, head in ipairs(heads) do ids[at] = id_in_line(head) end
  local records, lives = call('HMGET', JOBS, unpack(ids)), call('HMGET', LIFE, unpack(ids))
  local due = string.format('%.6f', micros / 1000000)
  local first = '{"s":0,"at":"' .. due .. '"}' -- of a job that was never settled, as rows.py knows it
  local place = 0
  for at, id in ipairs(ids) do
    if records[at] then
      local text, rank, key = first, rank_of(records[at]), keys[at]
      if lives[at] then
        local life = life_of(lives[at])
        life.at = due
        text = cjson.encode(life)
      end
      scores[rank] = scores[rank] or string.format('%.0f', score_of(rank, micros / 1000000))
      changed[place + 1], changed[place + 2] = id, text
      ready[place + 1], ready[place + 2] = scores[rank], id
      turns[place + 1], turns[place + 2] = id, key
      place = place + 2
      counts[key] = (counts[key] or 0) + 1
    end
  end
  if place == 0 then return end
  call('HSET', LIFE, unpack(changed))
  call('ZADD', READY, unpack(ready))
  if limits.by_key then call('HSET', TURN, unpack(turns)) end
end

local function first_in_line(key, count)
  local start = string.format('%04d', #key) .. key
  return call('ZRANGEBYLEX', LINES, '[' .. start .. '\0', '(' .. start .. '\1', 'LIMIT', 0, count)
end

-- Make ready the next jobs of a key, as far as its limits let them; return how many. ``busy`` have their turn.
local function advance(limits, key, micros, busy)
  local released, free, counts = 0, 50, {}
  if limits.slots then
    free = math.min(free, limits.slots - (busy or count_in(call('HGET', BUSY, key), 1000000000)))
  end
  while released < free do
    local heads, keys = first_in_line(key, limits.key_spacing and 1 or free - released), {}
    if #heads == 0 then break end
    if limits.key_spacing then
      if call('HEXISTS', PACE, key) == 1 then break end -- one of it has not started yet
      local start = start_of(limits, key, micros)
      if start > 0 then
        call('ZADD', PACED, start, key)
        break
      end
    end
    for at = 1, #heads do keys[at] = key end
    make_ready(limits, heads, keys, micros, counts)
    local more = (counts[key] or 0) - released
    released = released + more
    if more > 0 and limits.key_spacing then call('HSET', PACE, key, id_in_line(heads[1])) end
  end
  if released > 0 and limits.by_key then call('HINCRBY', BUSY, key, released) end
  return released
end

-- Give up the turn that a job has, if it has one; return how many became ready by that.
local function leave(id, micros)
  local key = call('HGET', TURN, id)
  if not key then return 0 end
  call('HDEL', TURN, id)
  local busy = math.max(0, call('HINCRBY', BUSY, key, -1))
  if call('HGET', PACE, key) == id then call('HDEL', PACE, key) end
  local limits = limits_of()
  if limits.off and call('EXISTS', TURN, LINES) == 0 then call('DEL', LIMITS) end
  if busy == 0 then call('HDEL', BUSY, key) end
  return advance(limits, key, micros, busy)
end

-- As `leave`, for several jobs at once.
local function leave_all(ids, micros)
  local limits, released = limits_of(), 0
  if limits.key_spacing or call('EXISTS', PACE) == 1 then
    for _, id in ipairs(ids) do released = released + leave(id, micros) end
    return released
  end
  local left, keys, freed = {}, {}, {}
  for at, key in ipairs(call('HMGET', TURN, unpack(ids))) do
    if key then
      left[#left + 1] = ids[at]
      if not freed[key] then keys[#keys + 1] = key end
      freed[key] = (freed[key] or 0) + 1
    end
  end
  if #left == 0 then return 0 end
  call('HDEL', TURN, unpack(left))
  if limits.off and call('EXISTS', TURN, LINES) == 0 then call('DEL', LIMITS) end
  local before, busy, counts, asked = call('HMGET', BUSY, unpack(keys)), {}, {}, {}
  local heads, keys_of_heads, number = {}, {}, 0
  for at, key in ipairs(keys) do
    busy[at] = math.max(0, count_in(before[at], 1000000000) - freed[key])
    local free = math.min(50, limits.slots and limits.slots - busy[at] or 50)
    local first = free > 0 and first_in_line(key, free) or {}
    for place, head in ipairs(first) do heads[number + place], keys_of_heads[number + place] = head, key end
    number, asked[at] = number + #first, #first
    if number >= 100 or number > 0 and at == #keys then
      make_ready(limits, heads, keys_of_heads, micros, counts)
      heads, keys_of_heads, number = {}, {}, 0
    end
  end
  local none, some = {}, {}
  for at, key in ipairs(keys) do
    local count = counts[key] or 0
    released = released + count
    local now = busy[at] + (limits.by_key and count or 0)
    if now == 0 then
      none[#none + 1] = key
    elseif tostring(now) ~= before[at] then
      some[#some + 1] = key
      some[#some + 1] = now
    end
  end
  if #none > 0 then call('HDEL', BUSY, unpack(none)) end
  if #some > 0 then call('HSET', BUSY, unpack(some)) end
  for at, key in ipairs(keys) do
    if asked[at] > (counts[key] or 0) then released = released + advance(limits, key, micros) end
  end
  return released
end

-- Whether a job that goes on, or that is dead, keeps its turn; one that is ready does.
local function keeps_turn(status)
  local limits = limits_of()
  if not limits.ordered then return false end
  return status == PENDING or status == RETRYING or status == DEAD and limits.hold_dead
end

-- Make a due job ready, or put it in its line; return how many became ready.
local function come(limits, id, record, life, score, micros)
  local key = limits.by_key and key_of(record) or ''
  if key == '' or call('HEXISTS', TURN, id) == 1 then
    call('ZADD', READY, score, id)
    return 1
  end
  if not limits.key_spacing and not is_full(limits, key) then
    local prefix = prefix_of(key)
    local behind = call('ZLEXCOUNT', LINES, '[' .. prefix, '(' .. sub(prefix, 1, -2) .. '\1')
    if behind == 0 then
      take_turn(id, key)
      call('ZADD', READY, score, id)
      return 1
    end
  end
  call('ZADD', LINES, 0, line_member(key, record, life, id))
  return advance(limits, key, micros)
end
