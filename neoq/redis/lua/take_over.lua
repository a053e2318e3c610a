-- Let another producer go on with a batch whose callback is held.
-- keys: groups jobs life held
-- takes: name holder producer rules
-- arguments: the name of the group, the id of the callback, the new producer, its rules as JSON
-- result: {"open", what the queues are to know of the producer, the queues that have members}, or {"over"}
-- complexity: O(queues of the group)

local state = group_in(call('HGET', GROUPS, name))
local record = sound(call('HGET', JOBS, holder))
local life = record and life_of(call('HGET', LIFE, holder))
local now = clock() / 1000000
if not state or state.done or state.stopped or not life or life.h ~= 'batch' or not is_held(HELD, holder, now) then
  return { 'over' }
end
for rule, value in pairs(cjson.decode(rules)) do state[rule] = value end
if state.p ~= producer then state.turn = count_in(state.turn, 999999998) + 1 end
state.p = producer
state.sealed = false
call('HSET', GROUPS, name, cjson.encode(state))
local reply = { 'open', opener_of(state) }
for queue in pairs(state.q) do reply[#reply + 1] = queue end
return reply
