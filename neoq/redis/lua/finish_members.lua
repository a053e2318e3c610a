-- Record that jobs of groups have succeeded, each only under its current lease: those that hold no fingerprint,
-- have no key and wait for nobody.
-- keys: lease life done_jobs results progress cancel crashed steps ends tell limits ready idle
-- takes: again count channel queue tries
-- arguments: 1 if this repeats a call whose reply was lost, number of jobs, the prefix of the workers' channels,
--   the queue, how many workers to call; then their leases; id and life as JSON of each; the names of their
--   groups; id and result of those that have one
-- result: {ids of the stale ones, names of groups and their totals}
-- complexity: O(log of the queue) a job; at most 50 jobs
-- A group keeps its jobs, whatever the settings say.

again, count = again == '1', tonumber(count)
local now = clock() / 1000000
local LIVES, NAMES, RESULTS_AT = FIRST + count, FIRST + 3 * count, FIRST + 4 * count

local scores = call('ZMSCORE', LEASE, unpack(ARGV, FIRST, FIRST + count - 1))
local stale, live, leases, lives, ends, seen, growth = {}, {}, {}, {}, {}, {}, {}
for place = 1, count do
  local lease, id = ARGV[FIRST + place - 1], ARGV[LIVES + 2 * place - 2]
  if scores[place] and not seen[id] then
    seen[id] = true
    live[#live + 1], leases[#leases + 1] = id, lease
    lives[#lives + 1] = id
    lives[#lives + 1] = ARGV[LIVES + 2 * place - 1]
    ends[#ends + 1] = now
    ends[#ends + 1] = id
    grow_by(growth, ARGV[NAMES + place - 1], WELL, 1)
  else
    local known = again and call('HGET', LIFE, id)
    if not again or known and life_of(known).t ~= lease then stale[#stale + 1] = id end
  end
end
if #live == 0 then return { stale, {} } end

call('ZREM', LEASE, unpack(leases))
if call('EXISTS', CANCEL, CRASHED, PROGRESS, STEPS) > 0 then
  call('SREM', CANCEL, unpack(live))
  call('SREM', CRASHED, unpack(live))
  call('HDEL', PROGRESS, unpack(live))
  drop_steps_of(STEPS, live)
end
call('HSET', LIFE, unpack(lives))
call('ZADD', DONE_JOBS, unpack(ends))
for at = RESULTS_AT, #ARGV, 2 do
  if seen[ARGV[at]] then call('HSET', RESULTS, ARGV[at], ARGV[at + 1]) end
end
if call('EXISTS', LIMITS, READY) == 2 then wake(IDLE, channel, queue, tries) end
return { stale, write_growth(growth, ENDS, TELL, now) }
