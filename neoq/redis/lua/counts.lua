-- Count the jobs of a queue by where they are.
-- keys: ready wait retry lease done_jobs dead_jobs cancelled_jobs paused
-- arguments: none
-- result: {ready, scheduled, retrying, running, succeeded, dead, cancelled, paused}
-- complexity: O(log of the queue)

local now = clock() / 1000000
local due, again = call('ZCOUNT', WAIT, '-inf', now), call('ZCOUNT', RETRY, '-inf', now)
return {
  call('ZCARD', READY) + due + again,
  call('ZCARD', WAIT) - due,
  call('ZCARD', RETRY) - again,
  call('ZCARD', LEASE),
  call('ZCARD', DONE_JOBS),
  call('ZCARD', DEAD_JOBS),
  call('ZCARD', CANCELLED_JOBS),
  call('EXISTS', PAUSED),
}
