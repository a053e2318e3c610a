-- Look through some jobs for such as are nowhere: no script leaves any, a hand in the data may.
-- keys: jobs life ready wait retry lease done_jobs dead_jobs cancelled_jobs
-- arguments: a cursor, how many to look at
-- result: {next cursor, ids that were made ready again}
-- complexity: O(log of the queue) a job, and O(1) a running job of the queue

local now = clock() / 1000000
local page = call('HSCAN', JOBS, ARGV[1], 'COUNT', ARGV[2])
local found, held = {}, nil
for at = 1, #page[2], 2 do
  local id, record = page[2][at], page[2][at + 1]
  local life = life_of(call('HGET', LIFE, id))
  local ends = ({ [SUCCEEDED] = DONE_JOBS, [DEAD] = DEAD_JOBS, [CANCELLED] = CANCELLED_JOBS })[life.s]
  if ends then
    if not call('ZSCORE', ends, id) then call('ZADD', ends, now, id) end
  elseif is_running(READY, WAIT, RETRY, id, record, life) then
    if not held then
      held = {}
      for _, lease in ipairs(call('ZRANGE', LEASE, 0, -1)) do held[string.match(lease, '^%d+')] = true end
    end
    if not held[id] then
      call('ZADD', READY, score_of(rank_of(record), due_of(record, life)), id)
      found[#found + 1] = id
    end
  end
end
return { page[1], found }
