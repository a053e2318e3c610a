-- Renew leases, and record how far the attempts are.
-- keys: lease cancel progress
-- takes: lease
-- arguments: lease in microseconds; then for each job: id, lease, progress as JSON
-- result: {ids of lost leases, ids of jobs that were cancelled}
-- complexity: O(log of the running jobs) a job; at most 50 jobs

local expires = (clock() + tonumber(lease)) / 1000000
local lost, cancelled = {}, {}
for at = FIRST, #ARGV, 3 do
  local id, name = ARGV[at], ARGV[at + 1]
  if call('ZSCORE', LEASE, name) then
    call('ZADD', LEASE, 'XX', expires, name)
    if ARGV[at + 2] ~= '' then call('HSET', PROGRESS, id, ARGV[at + 2]) end
    if call('SISMEMBER', CANCEL, id) == 1 then cancelled[#cancelled + 1] = id end
  else
    lost[#lost + 1] = id
  end
end
return { lost, cancelled }
