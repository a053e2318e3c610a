-- Add one job that is ready, unique and small, as most are, where no unfinished one has its fingerprint.
-- keys: ids jobs ready uniq seq idle last queues life
-- arguments: the channel of workers, the queue, how many workers to call, step between ids, token, id, record,
--   score
-- result: its id, {"again", ids} where this token was seen before, {"held", id} of the job that has its
--   fingerprint, or {"unknown"} where the queue has no number: then nothing was done
-- complexity: O(log of the queue)

local token, id, record = ARGV[5], ARGV[6], ARGV[7]

local last = call('SET', LAST, token .. id .. ':1', 'PX', 300000, 'GET')
if last and sub(last, 1, #token) == token then
  call('SET', LAST, last, 'PX', 300000)
  return { 'again', sub(last, #token + 1) }
end
local print = fingerprint_of(record)
if call('HSETNX', UNIQ, print, id) == 0 then
  local holder = call('HGET', UNIQ, print)
  if is_unfinished(JOBS, LIFE, holder) then
    call('DEL', LAST)
    return { 'held', holder }
  end
  call('HSET', UNIQ, print, id)
end
local newest = call('SET', SEQ, id, 'GET')
if not newest and call('HEXISTS', QUEUES, ARGV[2]) == 0 then -- a server that lost the queue has lost this, too
  call('DEL', LAST, SEQ)
  call('HDEL', UNIQ, print)
  return { 'unknown' }
end
if newest and newest_of(newest) >= tonumber(id) then -- the sender's clock is behind another's
  id = string.format('%.0f', next_id(newest_of(newest), tonumber(id), tonumber(ARGV[4])))
  call('SET', SEQ, id)
  call('SET', LAST, token .. id .. ':1', 'PX', 300000)
  call('HSET', UNIQ, print, id)
end
call('HSET', JOBS, id, record)
call('ZADD', IDS, id, id)
call('ZADD', READY, ARGV[8], id)
wake(IDLE, ARGV[1], ARGV[2], tonumber(ARGV[3]))
return id
