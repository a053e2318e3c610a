-- Forget jobs that have ended: those from before a time, or the oldest beyond a number.
-- keys: done_jobs dead_jobs cancelled_jobs jobs life payloads results ids steps
-- takes: ends seconds most
-- arguments: done, dead or cancelled, seconds ("" for any), how many at most (up to 50)
-- result: ids
-- complexity: O(log of the queue) a job

local from = ({ done = DONE_JOBS, dead = DEAD_JOBS, cancelled = CANCELLED_JOBS })[ends]
local limit = '+inf'
if seconds ~= '' then limit = clock() / 1000000 - tonumber(seconds) end
local ids = call('ZRANGEBYSCORE', from, '-inf', limit, 'LIMIT', 0, most)
if #ids > 0 then
  call('ZREM', from, unpack(ids))
  call('ZREM', IDS, unpack(ids))
  drop_steps_of(STEPS, ids)
  for _, key in ipairs({ JOBS, LIFE, PAYLOADS, RESULTS }) do call('HDEL', key, unpack(ids)) end
end
return ids
