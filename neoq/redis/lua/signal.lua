-- Record a signal for an unfinished job; the first of a name wins. A job that waits for it is due at once.
-- keys: jobs life uniq steps held wait ready idle
-- takes: channel queue tries id fingerprint name value most mark
-- arguments: the prefix of the workers' channels, the queue, how many workers to try, the id of the job, or ""
--   and its fingerprint, the name and the value of the step, how many signals a job may have that it did not
--   wait for, the random text in the value by which this call is known when it is repeated
-- result: 1 if it was recorded, 0 if not; 2 if the job is ready now
-- complexity: O(log of the queue)

local now = clock() / 1000000
if id == '' then id = call('HGET', UNIQ, fingerprint) end
local record = id and sound(call('HGET', JOBS, id))
if not record then return 0 end
local life = life_of(call('HGET', LIFE, id))
if life.s >= SUCCEEDED then return 0 end
local there = call('HGET', STEPS, id .. ':' .. name)
if there then return string.match(there, '^%S+ %d %d+ %d+ (%S+) ') == mark and 1 or 0 end

local head = head_of(call('HGET', STEPS, id))
local awaited = life.aw == name and is_held(HELD, id, now)
if not awaited then
  if head.signals >= tonumber(most) then return 0 end
  head.signals = head.signals + 1
end
write_step(STEPS, id, head, now, name, value)
keep_head(STEPS, id, head)
if not awaited then return 1 end
call('ZREM', HELD, id)
call('ZREM', WAIT, unpack(waiting_of(record, id)))
life.h, life.aw, life.at = nil, nil, string.format('%.6f', now)
call('HSET', LIFE, id, cjson.encode(life))
call('ZADD', READY, score_of(rank_of(record), now), id)
wake(IDLE, channel, queue, tries)
return 2
