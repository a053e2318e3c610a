-- Set the limits of a queue, by its listeners or by an operator, whose own override the others'.
-- keys: limits lines turn
-- takes: by text
-- arguments: listener or operator, the limits as JSON ("" for none): "of" is for clients, the rest for scripts
-- result: {what a listener has set before ("" for nothing), 1 if the limits that hold are others now}
-- complexity: O(1)

local before = call('HGET', LIMITS, 'listener') or ''
local held = call('HGET', LIMITS, 'operator') or before
if text == '' then call('HDEL', LIMITS, by) else call('HSET', LIMITS, by, text) end
local holds = call('HGET', LIMITS, 'operator') or call('HGET', LIMITS, 'listener') or ''
if holds == held then return { before, 0 } end

for _, name in ipairs({ 'by_key', 'ordered', 'hold_dead', 'slots', 'max_running', 'spacing', 'tolerance',
  'key_spacing', 'key_tolerance', 'aging', 'off' }) do call('HDEL', LIMITS, name) end
if holds ~= '' then
  for name, value in pairs(cjson.decode(holds)) do
    if type(value) == 'number' then call('HSET', LIMITS, name, string.format('%.17g', value)) end
  end
elseif call('EXISTS', LINES, TURN) > 0 then
  call('HSET', LIMITS, 'off', 1) -- until the lines are empty, and nobody has a turn
else
  call('DEL', LIMITS)
  return { before, 1 }
end
call('HSET', LIMITS, 'scan', 1)
call('HSET', LIMITS, 'free', 0)
return { before, 1 }
