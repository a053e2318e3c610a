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

-- The members of lines that are of one key begin with this and a zero byte, and those of no other key.
local lengths = {} -- formatted once in a run
local function start_of_line(key)
  local length = lengths[#key]
  if not length then
    length = string.format('%04d', #key)
    lengths[#key] = length
  end
  return length .. key
end

local function line_member(key, record, life, id)
  local due = math.floor(math.min(math.max(due_of(record, life), 0), 9e9) * 1000000)
  return start_of_line(key) .. '\0' .. rank_of(record) .. string.format('%016.0f', due) .. string.rep('0', 16 - #id) .. id
end

local function id_in_line(member)
  local zeros = 0
  while byte(member, zeros - 16) == 48 do zeros = zeros + 1 end
  return sub(member, zeros - 16)
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

-- While ready jobs are put in their lines, after the queue got limits: the first of those that were not looked at
-- yet, by its score and id. Those before it have their turn, or no key.
local function front_of(limits)
  local score, id = string.match(limits.form, '^(%S+) (.+)$')
  return tonumber(score), id
end

-- Whether a job stands behind those that were looked at: it is put in its line when they come to it.
local function is_behind_front(limits, score, id)
  if not limits.form then return false end
  if limits.form == 1 then return true end
  local front, first = front_of(limits)
  return score > front or score == front and id >= first
end

-- The score of a job that has its turn: it is claimed before those that were not looked at yet.
local function score_with_turn(limits, score)
  if not limits.form or limits.form == 1 then return score end
  local front = front_of(limits)
  if score < front or math.floor(score / LEVEL) > math.floor(front / LEVEL) or front % LEVEL < 1 then return score end
  return front - 1
end

-- Make ready those that are first in their lines, each of the key at its place. Their records are not read: a
-- claim finds out where one is gone, and by its place among the ready jobs when it had its turn.
local function make_ready(limits, heads, keys, micros)
  local now, scores, ready, turns = micros / 1000000, {}, {}, {}
  for at = 1, #heads do
    local head, key = heads[at], keys[at]
    local id, rank = id_in_line(head), sub(head, #key + 6, #key + 8)
    local score = scores[rank]
    if not score then
      score = string.format('%.0f', score_with_turn(limits, score_of(rank, now)))
      scores[rank] = score
    end
    ready[2 * at - 1], ready[2 * at] = score, id
    turns[2 * at - 1], turns[2 * at] = id, key
  end
  call('ZREM', LINES, unpack(heads))
  call('ZADD', READY, unpack(ready))
  if limits.by_key then call('HSET', TURN, unpack(turns)) end
end

local function first_in_line(key, count)
  local start = start_of_line(key)
  return call('ZRANGEBYLEX', LINES, '[' .. start .. '\0', '[' .. start .. '\1', 'LIMIT', '0', count)
end

-- Make ready the next jobs of a key, as far as its limits let them; return how many. ``busy`` have their turn.
local function advance(limits, key, micros, busy)
  local released, free = 0, 50
  if limits.slots then
    free = math.min(free, limits.slots - (busy or count_in(call('HGET', BUSY, key), 1000000000)))
  end
  while released < free do
    local asked = limits.key_spacing and 1 or free - released
    local heads, keys = first_in_line(key, asked), {}
    if #heads == 0 then break end
    if limits.key_spacing then
      if call('HEXISTS', PACE, key) == 1 then break end -- one of it has not started yet
      local start = start_of(limits, key, micros)
      if start > 0 then
        call('ZADD', PACED, start, key)
        break
      end
      call('HSET', PACE, key, id_in_line(heads[1]))
    end
    for at = 1, #heads do keys[at] = key end
    make_ready(limits, heads, keys, micros)
    released = released + #heads
    if #heads < asked then break end
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

-- Make ready the first jobs of several lines, as many of each as it has free places; return how many. ``busy``
-- has how many of each key have their turn, and then has how many have it after that.
local function advance_all(limits, keys, busy, micros)
  local released, heads, of, number = 0, {}, {}, 0
  for at = 1, #keys do
    local key = keys[at]
    local free = limits.slots and math.min(50, limits.slots - busy[at]) or 50
    if free > 0 then
      local first = first_in_line(key, free)
      for place = 1, #first do heads[number + place], of[number + place] = first[place], key end
      number = number + #first
      if limits.by_key then busy[at] = busy[at] + #first end
    end
    if number >= 100 or number > 0 and at == #keys then
      make_ready(limits, heads, of, micros)
      released, heads, of, number = released + number, {}, {}, 0
    end
  end
  return released
end

-- As `leave`, for several jobs at once.
local function leave_all(ids, micros)
  local limits = limits_of()
  if limits.key_spacing or call('EXISTS', PACE) == 1 then
    local released = 0
    for _, id in ipairs(ids) do released = released + leave(id, micros) end
    return released
  end
  local keys, freed, some = {}, {}, 0
  local found = call('HMGET', TURN, unpack(ids))
  for at = 1, #ids do
    local key = found[at]
    if key then
      local count = freed[key]
      if not count then
        some = some + 1
        keys[some] = key
      end
      freed[key] = (count or 0) + 1
    end
  end
  if some == 0 then return 0 end
  call('HDEL', TURN, unpack(ids))
  if limits.off and call('EXISTS', TURN, LINES) == 0 then call('DEL', LIMITS) end
  local before, busy = call('HMGET', BUSY, unpack(keys)), {}
  for at = 1, some do
    before[at] = count_in(before[at], 1000000000)
    busy[at] = math.max(0, before[at] - freed[keys[at]])
  end
  local released = call('EXISTS', LINES) == 1 and advance_all(limits, keys, busy, micros) or 0
  local none, other = {}, {}
  for at = 1, some do
    if busy[at] == 0 then
      none[#none + 1] = keys[at]
    elseif busy[at] ~= before[at] then
      other[#other + 1] = keys[at]
      other[#other + 1] = busy[at]
    end
  end
  if #none > 0 then call('HDEL', BUSY, unpack(none)) end
  if #other > 0 then call('HSET', BUSY, unpack(other)) end
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
  local turn = key ~= '' and call('HEXISTS', TURN, id) == 1
  if key == '' or turn or is_behind_front(limits, score, id) then
    call('ZADD', READY, turn and score_with_turn(limits, score) or score, id)
    return 1
  end
  local full = is_full(limits, key)
  if not limits.key_spacing and not full and #first_in_line(key, 1) == 0 then
    take_turn(id, key)
    call('ZADD', READY, score, id)
    return 1
  end
  call('ZADD', LINES, 0, line_member(key, record, life, id))
  return full and 0 or advance(limits, key, micros)
end

-- Give several jobs their turns, or put them in their lines, in their order. Return which of them are in line by
-- now, by their places, and the keys whose lines may go on after that.
local function line_up(limits, ids, keys, records, lives)
  local some, at_key = {}, {}
  for _, key in ipairs(keys) do
    if not at_key[key] then
      some[#some + 1] = key
      at_key[key] = #some
    end
  end
  local busy, lines = call('HMGET', BUSY, unpack(some)), call('EXISTS', LINES) == 1
  local behind, grown, advancing = {}, {}, {}
  for at, key in ipairs(some) do
    busy[at] = count_in(busy[at], 1000000000)
    local free = not limits.slots or busy[at] < limits.slots
    if free and (limits.key_spacing or lines and #first_in_line(key, 1) > 0) then
      behind[at] = true
      advancing[#advancing + 1] = key
    end
  end
  local in_line, members, turns, counts = {}, {}, {}, {}
  for place, id in ipairs(ids) do
    local key = keys[place]
    local at = at_key[key]
    if behind[at] or limits.slots and busy[at] >= limits.slots then
      in_line[place] = true
      members[#members + 1] = '0'
      members[#members + 1] = line_member(key, records[place], lives[place] and life_of(lives[place]), id)
    else
      busy[at] = busy[at] + 1
      grown[at] = true
      turns[#turns + 1] = id
      turns[#turns + 1] = key
    end
  end
  for at in pairs(grown) do
    counts[#counts + 1] = some[at]
    counts[#counts + 1] = busy[at]
  end
  if #members > 0 then call('ZADD', LINES, unpack(members)) end
  if #turns > 0 then
    call('HSET', TURN, unpack(turns))
    call('HSET', BUSY, unpack(counts))
  end
  return in_line, advancing
end

-- Look at the next ready jobs from before the queue had limits by key, and put them in the lines of their keys.
local function form(limits, most, micros)
  local from = 0
  if limits.form ~= 1 then
    local front, first = front_of(limits)
    from = call('ZRANK', READY, first) or call('ZCOUNT', READY, '-inf', '(' .. string.format('%.0f', front))
  end
  local found, advancing = call('ZRANGE', READY, from, from + most - 1), {}
  local stay = #found
  if stay > 0 then
    local stored, turns = call('HMGET', JOBS, unpack(found)), call('HMGET', TURN, unpack(found))
    local ids, keys, records, number = {}, {}, {}, 0
    for at, id in ipairs(found) do
      local record = not turns[at] and sound(stored[at])
      local key = record and key_of(record) or ''
      if key ~= '' then
        number = number + 1
        ids[number], keys[number], records[number] = id, key, record
      end
    end
    if number > 0 then
      local in_line, gone
      in_line, advancing = line_up(limits, ids, keys, records, call('HMGET', LIFE, unpack(ids)))
      gone = {}
      for place, id in ipairs(ids) do
        if in_line[place] then gone[#gone + 1] = id end
      end
      if #gone > 0 then call('ZREM', READY, unpack(gone)) end
      stay = stay - #gone
    end
  end
  local first = #found == most and call('ZRANGE', READY, from + stay, from + stay, 'WITHSCORES') or {}
  if #first > 0 then
    limits.form = first[2] .. ' ' .. first[1]
    call('HSET', LIMITS, 'form', limits.form)
  else
    limits.form = nil
    call('HDEL', LIMITS, 'form')
  end
  for _, key in ipairs(advancing) do advance(limits, key, micros) end
end
