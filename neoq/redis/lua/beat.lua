-- Record that a worker is alive; a full server must accept this, or others would take the worker's jobs.
-- keys: workers
-- takes: worker report
-- arguments: the worker, its report
-- result: none
-- complexity: O(1)

call('HSET', WORKERS, worker, report)
