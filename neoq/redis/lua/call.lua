-- Call one worker that has nothing to do: who was called cannot take what is there.
-- keys: idle
-- arguments: the channel of workers, the queue, how many workers to call
-- result: none
-- complexity: O(1)

wake(IDLE, ARGV[1], ARGV[2], tonumber(ARGV[3]))
