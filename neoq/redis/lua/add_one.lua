-- Add one job that is ready and small, as most are; where it is unique and no unfinished one has its fingerprint.
-- keys: ids jobs ready uniq seq idle last queues life spent
-- takes: channel queue tries step token id record score
-- arguments: the prefix of the workers' channels, the queue, how many workers to try, step between ids,
--   token, id, record, score
-- result: its id, {"again", ids} where this token was seen before, {"held", id} of the job that has its
--   fingerprint, or {"unknown"} where the queue has no number: then nothing was done
-- complexity: O(log of the queue)

local last = call('SET', LAST, token .. id .. ':1', 'PX', 300000, 'GET')
if last and sub(last, 1, #token) == token then
  call('SET', LAST, last, 'PX', 300000)
  return { 'again', sub(last, #token + 1) }
end
local uniqueness = byte(record)
local unique = uniqueness ~= 48 and uniqueness ~= 51
local fingerprint = fingerprint_of(record)
if unique and call('HSETNX', UNIQ, fingerprint, id) == 0 then
  local holder = call('HGET', UNIQ, fingerprint)
  if is_unfinished(JOBS, LIFE, holder) or is_spent(SPENT, fingerprint, clock() / 1000000) then
    call('DEL', LAST)
    return { 'held', holder }
  end
  call('HSET', UNIQ, fingerprint, id)
  call('HDEL', SPENT, fingerprint)
end
local newest = call('SET', SEQ, id, 'GET')
if not newest and call('HEXISTS', QUEUES, queue) == 0 then -- a server that lost the queue has lost this, too
  call('DEL', LAST, SEQ)
  if unique then call('HDEL', UNIQ, fingerprint) end
  return { 'unknown' }
end
if newest and newest_of(newest) >= tonumber(id) then -- the sender's clock is behind another's
  id = string.format('%.0f', next_id(newest_of(newest), tonumber(id), tonumber(step)))
  call('SET', SEQ, id)
  call('SET', LAST, token .. id .. ':1', 'PX', 300000)
  if unique then call('HSET', UNIQ, fingerprint, id) end
end
call('HSET', JOBS, id, record)
call('ZADD', IDS, id, id)
call('ZADD', READY, score, id)
wake(IDLE, channel, queue, tries)
return id
