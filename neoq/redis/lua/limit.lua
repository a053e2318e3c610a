-- Set the limits of a queue, by its listeners or by an operator, whose own override the others'.
-- keys: limits lines turn busy lease jobs tats ready
-- takes: by text
-- arguments: listener or operator, the limits as JSON ("" for none): "of" is for clients, the rest for scripts
-- result: {what a listener has set before ("" for nothing), 1 if the limits that hold are others now}
-- complexity: O(1), and O(running jobs) where the queue had no limits by key

local before = call('HGET', LIMITS, 'listener') or ''
local held = call('HGET', LIMITS, 'operator') or before
if text == '' then call('HDEL', LIMITS, by) else call('HSET', LIMITS, by, text) end
local holds = call('HGET', LIMITS, 'operator') or call('HGET', LIMITS, 'listener') or ''
if holds == held then return { before, 0 } end

local function rates_of()
  return call('HMGET', LIMITS, 'spacing', 'tolerance', 'key_spacing', 'key_tolerance')
end
local rates = rates_of()
local had_keys = call('HEXISTS', LIMITS, 'by_key') == 1
for _, name in ipairs({ 'by_key', 'ordered', 'hold_dead', 'slots', 'max_running', 'spacing', 'tolerance',
  'key_spacing', 'key_tolerance', 'aging', 'off' }) do call('HDEL', LIMITS, name) end
if holds ~= '' then
  for name, value in pairs(cjson.decode(holds)) do
    if type(value) == 'number' then call('HSET', LIMITS, name, string.format('%.17g', value)) end
  end
end

-- What another rate has used up does not count.
local now = rates_of()
if now[1] ~= rates[1] or now[2] ~= rates[2] then call('HDEL', LIMITS, 'tat') end
if now[3] ~= rates[3] or now[4] ~= rates[4] then call('DEL', TATS) end

if holds == '' then
  if call('EXISTS', LINES, TURN) == 0 then
    call('DEL', LIMITS)
    return { before, 1 }
  end
  call('HSET', LIMITS, 'off', 1) -- until the lines are empty, and nobody has a turn
end
-- Claims look at the lines that there are, and at those that have their turn, a few each.
if call('EXISTS', LINES) == 1 then call('HSET', LIMITS, 'scan', 1) end
if call('EXISTS', TURN) == 1 then call('HSET', LIMITS, 'free', 0) end

-- Jobs that run already have their turn, so that the next of their keys wait for them. Those that are ready are
-- put in their lines, a portion with each claim.
if call('HEXISTS', LIMITS, 'by_key') == 0 then
  call('HDEL', LIMITS, 'form')
elseif not had_keys then
  if call('EXISTS', READY) == 1 then call('HSET', LIMITS, 'form', 1) end
  local leases = call('ZRANGE', LEASE, 0, -1)
  for _, lease in ipairs(leases) do
    local id = string.match(lease, '^%d+') or ''
    local record = sound(call('HGET', JOBS, id))
    local key = record and key_of(record) or ''
    if key ~= '' and call('HEXISTS', TURN, id) == 0 then take_turn(id, key) end
  end
end
return { before, 1 }
