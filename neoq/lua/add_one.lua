-- Add one job that is ready, unique and small, as most are, where no unfinished one has its fingerprint.
-- keys: ids jobs ready uniq seq idle last life
-- arguments: token, id, record, fingerprint, score, the channel of workers, the queue, how many workers to call
-- result: its id, {"again", ids} where this token was seen before, {"held", id} of the job that it duplicates, or
--   {"taken"}: then nothing was done, and add.lua is to decide
-- complexity: O(log of the queue)

local token, id = ARGV[1], ARGV[2]

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
if call('HSETNX', UNIQ, ARGV[4], id) == 0 then
  call('DEL', LAST)
  local holder = call('HGET', UNIQ, ARGV[4])
  local life = call('HGET', LIFE, holder)
  if life and cjson.decode(life).s == RETRYING then return { 'taken' } end
  return { 'held', holder }
end
call('HSET', JOBS, id, ARGV[3])
call('ZADD', IDS, id, id)
call('ZADD', READY, ARGV[5], id)
wake(IDLE, ARGV[6], ARGV[7], tonumber(ARGV[8]))
return id
