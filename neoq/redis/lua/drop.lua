-- Forget jobs that have ended: those from before a time, or the oldest beyond a number.
-- keys: done_jobs dead_jobs cancelled_jobs jobs life payloads results ids steps
-- keys: ends members groups halts
-- keys: turn
-- takes: ends seconds most
-- arguments: done, dead or cancelled, seconds ("" for any), how many at most (up to 50)
-- result: {ids, how many were looked at}; jobs of a group that keeps them are put off
-- complexity: O(log of the queue) a job

local from = ({ done = DONE_JOBS, dead = DEAD_JOBS, cancelled = CANCELLED_JOBS })[ends]
local limit = '+inf'
if seconds ~= '' then limit = clock() / 1000000 - tonumber(seconds) end
local ids = call('ZRANGEBYSCORE', from, '-inf', limit, 'LIMIT', 0, most)
local looked = #ids
-- A dead job that holds its line stays: it is the last that is looked at.
if ends == 'dead' and call('EXISTS', TURN) == 1 then
  local free = {}
  for _, id in ipairs(ids) do
    if call('HEXISTS', TURN, id) == 1 then
      call('ZADD', from, clock() / 1000000, id)
    else
      free[#free + 1] = id
    end
  end
  ids = free
end
if #ids > 0 and call('EXISTS', ENDS, MEMBERS, GROUPS) > 0 then
  local gone, lives = {}, call('HMGET', LIFE, unpack(ids))
  for at, record in ipairs(call('HMGET', JOBS, unpack(ids))) do
    local id, name = ids[at], record and name_of(sound(record))
    if name and call('HEXISTS', ENDS, name) == 1 then
      call('ZADD', from, clock() / 1000000, id)
    else
      gone[#gone + 1] = id
      if name then call('ZREM', MEMBERS, member_of(name, id)) end
      forget_holder(GROUPS, HALTS, id, life_of(lives[at]))
    end
  end
  ids = gone
end
if #ids > 0 then
  call('ZREM', from, unpack(ids))
  call('ZREM', IDS, unpack(ids))
  drop_steps_of(STEPS, ids)
  for _, key in ipairs({ JOBS, LIFE, PAYLOADS, RESULTS }) do call('HDEL', key, unpack(ids)) end
end
return { ids, looked }
