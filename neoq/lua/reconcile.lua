-- Look through some jobs for such as are nowhere: no script leaves any, a hand in the data may.
-- keys: jobs life ready wait retry runs done_jobs dead_jobs cancelled_jobs lease
-- arguments: a cursor, how many to look at
-- result: {next cursor, ids that were made ready again}
-- complexity: O(log of the queue) a job

local now = clock() / 1000000
local page = call('HSCAN', JOBS, ARGV[1], 'COUNT', ARGV[2])
local found = {}
for at = 1, #page[2], 2 do
  local id, record = page[2][at], page[2][at + 1]
  local held = call('HEXISTS', RUNS, id) == 1
  if held and not call('ZSCORE', LEASE, id) then call('ZADD', LEASE, now, id) end
  if not held
    and not call('ZSCORE', READY, id)
    and not call('ZSCORE', WAIT, waiting(record, id))
    and not call('ZSCORE', RETRY, waiting(record, id)) then
    local life = life_of(call('HGET', LIFE, id))
    local ends = ({ [SUCCEEDED] = DONE_JOBS, [DEAD] = DEAD_JOBS, [CANCELLED] = CANCELLED_JOBS })[life.s]
    if not ends then
      call('ZADD', READY, score_of(record, due_of(record, life)), id)
      found[#found + 1] = id
    elseif not call('ZSCORE', ends, id) then
      call('ZADD', ends, now, id)
    end
  end
end
return { page[1], found }
