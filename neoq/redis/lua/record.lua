-- Record steps of jobs that run, each only under its current lease; what is there already stays, unless it is
-- said to be replaced.
-- keys: lease steps
-- arguments: for each job: id, lease, number of its steps; then name and value of each
-- result: ids of the stale ones
-- complexity: O(log of the running jobs) a job, O(1) a step; at most 50 jobs

local now = clock() / 1000000
local stale, at = {}, FIRST
while at <= #ARGV do
  local id, count = ARGV[at], tonumber(ARGV[at + 2])
  if call('ZSCORE', LEASE, ARGV[at + 1]) then
    write_steps(STEPS, id, now, at + 3, count)
  else
    stale[#stale + 1] = id
  end
  at = at + 3 + 2 * count
end
return stale
