-- Say whether a batch that takes several scripts may be added: a step of it, and the last one opens the gate.
-- They follow in the same transaction, and do nothing where the gate is shut.
-- keys: ready wait retry uniq gate last jobs life lines spent
-- takes: token before after room wanted
-- arguments: token ("" for none), what the gate must hold ("" in the first step) and is to hold then ("" if
--   it is only to be said), room ("" for any: ready jobs there may be), how many ready ones come,
--   fingerprints that must be free
-- result: {"open"}, {"shut"} where an earlier step found it so, {"full"}, or {"taken", place among these
--   fingerprints, id of the holder}
-- complexity: O(1) a fingerprint, at most 50; O(log of the queue)

wanted = tonumber(wanted)

if token ~= '' then
  local last = call('GET', LAST)
  if last and sub(last, 1, #token) == token then return { 'open' } end -- all of it was added before
end
if after ~= '' then
  if before == '' then
    call('DEL', GATE)
  elseif call('GET', GATE) ~= before then
    return { 'shut' }
  end
end
if room ~= '' and wanted > 0 then
  if ready_of(READY, WAIT, RETRY, LINES, clock() / 1000000) + wanted > tonumber(room) then return { 'full' } end
end
if #ARGV >= FIRST then
  for at, holder in ipairs(call('HMGET', UNIQ, unpack(ARGV, FIRST))) do
    if holder and (is_unfinished(JOBS, LIFE, holder) or is_spent(SPENT, ARGV[FIRST + at - 1], clock() / 1000000)) then
      if after ~= '' then call('DEL', GATE) end
      return { 'taken', at - 1, holder }
    end
  end
end
if after ~= '' then call('SET', GATE, after, 'PX', 300000) end
return { 'open' }
