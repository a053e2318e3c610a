-- The head of a job's steps; see job.lua.
local function head_of(text)
  local n, signals, crashes, base = string.match(text or '', '^(%d+):(%d+):(%d+):(%d+)$')
  return {
    n = count_in(n, 1000000),
    signals = count_in(signals, 1000000),
    crashes = count_in(crashes, 32766),
    base = count_in(base, 1000000),
  }
end

local function keep_head(steps, id, head)
  call('HSET', steps, id, string.format('%d:%d:%d:%d', head.n, head.signals, head.crashes, head.base))
end

-- Write a step, its value as the client has it, which begins with 1 if it is kept as it was first written.
local function write_step(steps, id, head, now, name, value)
  local field = id .. ':' .. name
  local new = call('HEXISTS', steps, field) == 0
  if new then
    head.n = head.n + 1
    call('HSET', steps, id .. '/' .. head.n, name)
    head.crashes = math.max(head.crashes, count_in(string.match(value, '^%d %d+ (%d+) '), 32766))
  end
  if new or byte(value) == 48 then call('HSET', steps, field, string.format('%.6f ', now) .. value) end
end

-- Write several, which are names and values among the arguments.
local function write_steps(steps, id, now, at, count)
  local head = head_of(call('HGET', steps, id))
  for place = at, at + 2 * count - 2, 2 do
    write_step(steps, id, head, now, ARGV[place], ARGV[place + 1])
  end
  keep_head(steps, id, head)
end

local function drop_steps(steps, id)
  local text = call('HGET', steps, id)
  if not text then return end
  for first = 1, head_of(text).n, 500 do
    local fields = {}
    for number = first, math.min(first + 499, head_of(text).n) do
      fields[#fields + 1] = id .. '/' .. number
    end
    for _, name in ipairs(call('HMGET', steps, unpack(fields))) do
      if name then fields[#fields + 1] = id .. ':' .. name end
    end
    call('HDEL', steps, unpack(fields))
  end
  call('HDEL', steps, id)
end

local function drop_steps_of(steps, ids)
  if call('EXISTS', steps) == 0 then return end
  for _, id in ipairs(ids) do drop_steps(steps, id) end
end

-- A job that was dead begins anew: what it had failed by an earlier step is not counted.
local function restart_steps(steps, id)
  local text = call('HGET', steps, id)
  if not text then return end
  local head = head_of(text)
  head.base, head.crashes = head.n, 0
  keep_head(steps, id, head)
end

-- Whether a job is held: its time, if it has one, has not come.
local function is_held(held, id, now)
  local score = call('ZSCORE', held, id)
  return score and tonumber(score) > now
end
