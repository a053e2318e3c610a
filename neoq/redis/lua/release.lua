-- Forget fingerprints whose job has ended or does not exist: a job whose record cannot be read leaves its own.
-- keys: uniq jobs life spent
-- takes: cursor most
-- arguments: a cursor, how many to look at
-- result: {next cursor, how many were forgotten}
-- complexity: O(1) a fingerprint; 50 at most, and some more where the hash is small

local reply = call('HSCAN', UNIQ, cursor, 'COUNT', most)
local page, gone = reply[2], 0
for at = 1, #page, 2 do
  if not is_unfinished(JOBS, LIFE, page[at + 1]) and not is_spent(SPENT, page[at], clock() / 1000000) then
    gone = gone + call('HDEL', UNIQ, page[at])
    call('HDEL', SPENT, page[at])
  end
end
return { reply[1], gone }
