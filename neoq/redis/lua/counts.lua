-- Count the jobs of a queue by where they are.
-- keys: ready wait retry lease done_jobs dead_jobs cancelled_jobs paused held lines
-- arguments: none
-- result: {ready, scheduled, retrying, running, succeeded, dead, cancelled, paused, held, when the oldest ready job
--   became due, the microsecond when the longest running one was claimed}; "" where there is none
-- complexity: O(log of the queue), for each priority that waits; and O(1) for each of the first 1000 that run

local now = clock() / 1000000
local due, again = call('ZCOUNT', WAIT, '-inf', now), call('ZCOUNT', RETRY, '-inf', now)

local held = math.min(call('ZCOUNT', HELD, '(' .. string.format('%.6f', now), '+inf'), call('ZCARD', WAIT) - due)

local oldest, claimed
local function take(time)
  if time and (not oldest or time < oldest) then oldest = time end
end
local first = call('ZRANGE', READY, 0, 0, 'WITHSCORES')[2]
while first do
  local rank = math.floor(first / LEVEL)
  take((first - rank * LEVEL) / 8000)
  first = call('ZRANGEBYSCORE', READY, (rank + 1) * LEVEL, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
end
for _, place in ipairs({ WAIT, RETRY }) do
  take(tonumber(call('ZRANGEBYSCORE', place, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)[2]))
end
for _, lease in ipairs(call('ZRANGE', LEASE, 0, 999)) do
  local token = tonumber(string.match(lease, '^%d+:(%d+):'))
  if token and (not claimed or token < claimed) then claimed = token end
end

return {
  call('ZCARD', READY) + call('ZCARD', LINES) + due + again,
  call('ZCARD', WAIT) - due - held,
  call('ZCARD', RETRY) - again,
  call('ZCARD', LEASE),
  call('ZCARD', DONE_JOBS),
  call('ZCARD', DEAD_JOBS),
  call('ZCARD', CANCELLED_JOBS),
  call('EXISTS', PAUSED),
  held,
  oldest and string.format('%.6f', oldest) or '',
  claimed and string.format('%.0f', claimed) or '',
}
