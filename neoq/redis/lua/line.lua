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
  return (string.gsub(sub(member, -16), '^0+', ''))
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

-- Make ready the next jobs of a key, as far as its limits let them; return how many. ``busy`` have their turn.
local function advance(limits, key, micros, busy)
  local now, prefix, released = micros / 1000000, prefix_of(key), 0
  local free = 50
  if limits.slots then
    free = math.min(free, limits.slots - (busy or count_in(call('HGET', BUSY, key), 1000000000)))
  end
  while released < free do
    local head = call('ZRANGEBYLEX', LINES, '[' .. prefix, '(' .. sub(prefix, 1, -2) .. '\1', 'LIMIT', 0, 1)[1]
    if not head then return released end
    if limits.key_spacing then
      if call('HEXISTS', PACE, key) == 1 then return released end -- one of it has not started yet
      local start = start_of(limits, key, micros)
      if start > 0 then
        call('ZADD', PACED, start, key)
        return released
      end
    end
    call('ZREM', LINES, head)
    local id = id_in_line(head)
    local record = sound(call('HGET', JOBS, id))
    if record then
      local life = life_of(call('HGET', LIFE, id))
      life.at = string.format('%.6f', now)
      call('HSET', LIFE, id, cjson.encode(life))
      call('ZADD', READY, score_of(rank_of(record), now), id)
      if limits.by_key then take_turn(id, key) end
      if limits.key_spacing then call('HSET', PACE, key, id) end
      released = released + 1
    end
  end
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
