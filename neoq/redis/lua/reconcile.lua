-- Look through some jobs for those in no index: no script leaves any, another program may.
-- keys: jobs life ready wait retry done_jobs dead_jobs cancelled_jobs held lines
-- takes: from
-- arguments: a cursor, how many to look at; or "" and ids that have no lease, to be made ready where they are
--   in no index
-- result: {next cursor, ids that are in no index: a lease may have them}, or {"", ids made ready}
-- complexity: O(log of the queue) a job; at most 50 jobs

local now = clock() / 1000000
local cursor, page, found = '', {}, {}
if from ~= '' then
  local reply = call('HSCAN', JOBS, from, 'COUNT', ARGV[FIRST])
  cursor, page = reply[1], reply[2]
else
  for at = FIRST, #ARGV do
    local record = call('HGET', JOBS, ARGV[at])
    if record then
      page[#page + 1] = ARGV[at]
      page[#page + 1] = record
    end
  end
end
for at = 1, #page, 2 do
  local id, record = page[at], sound(page[at + 1])
  local life = life_of(call('HGET', LIFE, id))
  local ends = ({ [SUCCEEDED] = DONE_JOBS, [DEAD] = DEAD_JOBS, [CANCELLED] = CANCELLED_JOBS })[life.s]
  if ends then
    if not call('ZSCORE', ends, id) then call('ZADD', ends, now, id) end
  elseif is_id(id) and is_running(READY, WAIT, RETRY, id, record, life) then
    if from == '' then
      call('ZREM', HELD, id)
      call('ZADD', READY, score_of(rank_of(record), due_of(record, life)), id)
    end
    found[#found + 1] = id
  end
end
return { cursor, found }
