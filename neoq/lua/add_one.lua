-- Add one job that is ready, unique and small, as most are, where no unfinished one has its fingerprint.
-- keys: ids jobs ready uniq seq idle last
-- arguments: the channel of workers, the queue, how many workers to call, token, id, record, score
-- result: its id, {"again", ids} where this token was seen before, or {"held", id} of the job that has its
--   fingerprint: then nothing was done
-- complexity: O(log of the queue)

local token, id, record = ARGV[4], ARGV[5], ARGV[6]

local last = call('SET', LAST, token .. id .. ':1', 'PX', 300000, 'GET')
if last and sub(last, 1, #token) == token then
  call('SET', LAST, last, 'PX', 300000)
  return { 'again', sub(last, #token + 1) }
end
local newest = call('SET', SEQ, id, 'GET')
if newest and tonumber(newest) >= tonumber(id) then -- the sender's clock is behind another's
  id = string.format('%.0f', tonumber(newest) + 1)
  call('SET', SEQ, id)
  call('SET', LAST, token .. id .. ':1', 'PX', 300000)
end
if call('HSETNX', UNIQ, fingerprint_of(record), id) == 0 then
  call('DEL', LAST)
  return { 'held', call('HGET', UNIQ, fingerprint_of(record)) }
end
call('HSET', JOBS, id, record)
call('ZADD', IDS, id, id)
call('ZADD', READY, ARGV[7], id)
wake(IDLE, ARGV[1], ARGV[2], tonumber(ARGV[3]))
return id
