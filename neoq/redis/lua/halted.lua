-- Remember that a group was stopped in all queues; forget it where its holder is forgotten.
-- keys: halts groups jobs
-- takes: name holder
-- arguments: the name of the group, its holder
-- result: none
-- complexity: O(1)

call('SREM', HALTS, name)
if call('HEXISTS', JOBS, holder) == 0 then call('HDEL', GROUPS, name) end
