-- Say that a worker is alive; also a full server has to hear it, or it would give the worker's jobs to others.
-- keys: workers
-- arguments: the worker, what it says
-- result: none
-- complexity: O(1)

call('HSET', WORKERS, ARGV[1], ARGV[2])
