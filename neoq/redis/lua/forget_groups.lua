-- Forget groups that keep their jobs no more.
-- keys: ends opener stopped tell
-- arguments: names of groups
-- result: none
-- complexity: O(1) a group

call('HDEL', ENDS, unpack(ARGV))
call('HDEL', OPENER, unpack(ARGV))
call('ZREM', STOPPED, unpack(ARGV))
call('ZREM', TELL, unpack(ARGV))
