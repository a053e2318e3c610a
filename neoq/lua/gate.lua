-- Say whether a batch that takes several scripts may be added. They follow in the same transaction, and do
-- nothing where the gate is shut.
-- keys: ready wait retry uniq gate last
-- arguments: token ("" if it is only to be said), room ("" for any: ready jobs there may be), how many ready
--   ones come, then the fingerprints that must be free
-- result: {"open"}, {"full"}, or {"taken", place among the fingerprints, id of the holder}
-- complexity: O(1) a fingerprint, at most 500; O(log of the queue)

local token, room, wanted = ARGV[1], ARGV[2], tonumber(ARGV[3])

if token ~= '' then
  local last = call('GET', LAST)
  if last and sub(last, 1, #token) == token then return { 'open' } end -- all of it was added before
  call('DEL', GATE)
end
if room ~= '' and wanted > 0 then
  if ready_of(READY, WAIT, RETRY, clock() / 1000000) + wanted > tonumber(room) then return { 'full' } end
end
if #ARGV > 3 then
  for at, holder in ipairs(call('HMGET', UNIQ, unpack(ARGV, 4))) do
    if holder then return { 'taken', at - 1, holder } end
  end
end
if token ~= '' then call('SET', GATE, token, 'PX', 300000) end
return { 'open' }
