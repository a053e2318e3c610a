-- Say that a worker is alive.
-- keys: workers
-- arguments: worker, what is known of it as JSON
-- result: none
-- complexity: O(1)

local time = call('TIME')
call('HSET', WORKERS, ARGV[1], time[1] .. '.' .. string.format('%06d', time[2]) .. ' ' .. ARGV[2])
