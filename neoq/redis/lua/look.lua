-- Look at jobs.
-- keys: jobs life progress cancel ready wait retry steps held lines
-- arguments: ids
-- result: {now, records, lives, progresses, whether cancelled, whether they run,
--   heads of their steps, until when they
--   are held, whether they are in line}; payloads kept apart, results
--   and leases are for the client to fetch
-- complexity: O(log of the queue) a job, at most 50

local time = call('TIME')
local records, lives = call('HMGET', JOBS, unpack(ARGV)), call('HMGET', LIFE, unpack(ARGV))
local run, lined = {}, {}
for at, id in ipairs(ARGV) do
  local record = sound(records[at])
  lined[at] = record and is_in_line(record, life_of(lives[at]), id) and 1 or 0
  run[at] = record and is_running(READY, WAIT, RETRY, id, record, life_of(lives[at])) and 1 or 0
end
return {
  time[1] .. '.' .. string.format('%06d', time[2]),
  records,
  lives,
  call('HMGET', PROGRESS, unpack(ARGV)),
  call('SMISMEMBER', CANCEL, unpack(ARGV)),
  run,
  call('HMGET', STEPS, unpack(ARGV)),
  call('ZMSCORE', HELD, unpack(ARGV)),
  lined,
}
