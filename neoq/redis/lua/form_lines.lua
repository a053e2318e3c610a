-- Put ready jobs in the lines of their keys: those from before the queue had limits, in their order.
-- keys: ready lines busy turn limits pace paced tats jobs life
-- takes: from most
-- arguments: how many of the best ready jobs were looked at before, and stay ready; how many to look at
-- result: how many were looked at by now, and stay ready; -1 if those were all
-- complexity: O(log of the queue) a job; at most 50 jobs

local limits = limits_of()
local ids = limits.by_key and call('ZRANGE', READY, from, from + most - 1) or {}
if #ids == 0 then return -1 end
local stay = from + #ids
for _, id in ipairs(ids) do
  local record = sound(call('HGET', JOBS, id))
  local key = record and key_of(record) or ''
  if key ~= '' and call('HEXISTS', TURN, id) == 0 then
    if is_full(limits, key) then
      call('ZREM', READY, id)
      call('ZADD', LINES, 0, line_member(key, record, life_of(call('HGET', LIFE, id)), id))
      stay = stay - 1
    else
      take_turn(id, key)
    end
  end
end
return stay
