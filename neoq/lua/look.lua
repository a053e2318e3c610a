-- Look at jobs.
-- keys: jobs life progress cancel ready wait retry lease
-- arguments: ids
-- result: {now, records, lives, progresses, whether cancelled, leases ("" where none)}; payloads kept apart and
--   results are for the client to fetch
-- complexity: O(log of the queue) a job, at most 50, and O(1) a running job of the queue

local time = call('TIME')
local records, lives = call('HMGET', JOBS, unpack(ARGV)), call('HMGET', LIFE, unpack(ARGV))
local leases, sought = {}, false
local running = {}
for at, id in ipairs(ARGV) do
  leases[at] = ''
  local record = records[at]
  if record and is_running(READY, WAIT, RETRY, id, record, life_of(lives[at])) then
    running[id] = at
    sought = true
  end
end
if sought then
  for _, lease in ipairs(call('ZRANGE', LEASE, 0, 4999)) do
    local at = running[string.match(lease, '^%d+')]
    if at then leases[at] = lease end
  end
end
return {
  time[1] .. '.' .. string.format('%06d', time[2]),
  records,
  lives,
  call('HMGET', PROGRESS, unpack(ARGV)),
  call('SMISMEMBER', CANCEL, unpack(ARGV)),
  leases,
}
