-- Give queues their numbers: those that they had, or the next ones.
-- keys: queues
-- arguments: queues
-- result: numbers
-- complexity: O(1) a queue

local numbers = {}
for at, queue in ipairs(ARGV) do
  call('HSETNX', QUEUES, queue, call('HLEN', QUEUES))
  numbers[at] = tonumber(call('HGET', QUEUES, queue))
end
return numbers
