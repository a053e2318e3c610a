-- Wake another idle worker: the one that was woken cannot run what is there.
-- keys: idle
-- takes: channel queue tries
-- arguments: the prefix of the workers' channels, the queue, how many workers to try
-- result: none
-- complexity: O(1)

wake(IDLE, channel, queue, tries)
