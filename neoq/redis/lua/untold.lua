-- Look for totals that should have been told at home by now, and for groups that are to be stopped.
-- keys: tell ends halts
-- takes: age most
-- arguments: how many seconds they are left to the worker that changed them, how many to look at
-- result: {names of groups and their totals, names of groups that are to be stopped}
-- complexity: O(1) a group

local names = call('ZRANGEBYSCORE', TELL, '-inf', clock() / 1000000 - tonumber(age), 'LIMIT', 0, most)
local found = {}
for _, name in ipairs(names) do
  found[#found + 1] = name
  found[#found + 1] = call('HGET', ENDS, name) or ''
end
return { found, call('SMEMBERS', HALTS) }
