-- Note at a group's home, before the first add to a queue, that it has members there.
-- keys: groups
-- takes: name producer noted
-- arguments: the name of the group, its producer, the queue
-- result: {"open", what the queue is to know of the producer, 1 if the batch is named}, or {"closed"}
-- complexity: O(queues of the group)

local state = group_in(call('HGET', GROUPS, name))
if not state or state.p ~= producer or state.sealed or state.stopped or state.done then return { 'closed' } end
if not state.q[noted] then
  state.q[noted] = ''
  call('HSET', GROUPS, name, cjson.encode(state))
end
return { 'open', opener_of(state), state.named and 1 or 0 }
