-- Forget uids whose job does not exist any more.
-- keys: uids jobs
-- takes: cursor most
-- arguments: a cursor, how many to look at
-- result: {next cursor, how many were forgotten}
-- complexity: O(1) a uid; 50 at most, and some more where the hash is small

local reply = call('HSCAN', UIDS, cursor, 'COUNT', most)
local page, gone = reply[2], 0
for at = 1, #page, 2 do
  if call('HEXISTS', JOBS, page[at + 1]) == 0 then gone = gone + call('HDEL', UIDS, page[at]) end
end
return { reply[1], gone }
