-- Remember that totals were told at home, if they have not changed since.
-- keys: tell ends
-- arguments: names of groups, and the totals that were told
-- result: none
-- complexity: O(1) a group

for at = 1, #ARGV, 2 do
  if (call('HGET', ENDS, ARGV[at]) or '') == ARGV[at + 1] then call('ZREM', TELL, ARGV[at]) end
end
