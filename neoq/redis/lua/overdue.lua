-- Look for what should have been delivered from an outbox by now: a worker that died has left it.
-- keys: out
-- takes: cursor age most
-- arguments: a cursor, how many seconds an entry is left to the worker that wrote it, how many to look at
-- result: {next cursor, entries and what they hold}
-- complexity: O(1) an entry

local now = clock() / 1000000
local reply = call('HSCAN', OUT, cursor, 'COUNT', most)
local found, page = {}, reply[2]
for at = 1, #page, 2 do
  local written = tonumber(string.match(page[at + 1], '^%d+%.%d+'))
  if not written or now - written >= tonumber(age) then
    found[#found + 1] = page[at]
    found[#found + 1] = page[at + 1]
  end
end
return { reply[1], found }
