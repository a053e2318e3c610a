-- Renew leases, and record how far the attempts are.
-- keys: lease runs cancel progress
-- arguments: lease in microseconds; then for each job: id, token and a colon, progress as JSON
-- result: {ids of lost leases, ids of jobs that were cancelled}
-- complexity: O(log of the running jobs) a job; at most 500 jobs

local expires = (clock() + tonumber(ARGV[1])) / 1000000
local lost, cancelled = {}, {}
for at = 2, #ARGV, 3 do
  local id, token = ARGV[at], ARGV[at + 1]
  local run = call('HGET', RUNS, id)
  if run and string.sub(run, 1, #token) == token then
    call('ZADD', LEASE, 'XX', expires, id)
    if ARGV[at + 2] ~= '' then call('HSET', PROGRESS, id, ARGV[at + 2]) end
    if call('SISMEMBER', CANCEL, id) == 1 then cancelled[#cancelled + 1] = id end
  else
    lost[#lost + 1] = id
  end
end
return { lost, cancelled }
