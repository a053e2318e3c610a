-- Let a queue know which producer may add members of a group, or that none may and no member starts any more.
-- keys: opener stopped ends
-- takes: name opened stop
-- arguments: the name of the group, what `note.lua` says of its producer ("" leaves it), 1 to stop the group
-- result: the totals of the group in this queue
-- complexity: O(log of the groups that were stopped)

if opened ~= '' then
  local before = call('HGET', OPENER, name)
  if not before or sub(before, 1, 9) <= sub(opened, 1, 9) then call('HSET', OPENER, name, opened) end
end
if stop == '1' then call('ZADD', STOPPED, clock() / 1000000, name) end
return call('HGET', ENDS, name) or ''
