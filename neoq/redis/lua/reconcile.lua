-- Look through some jobs for such as are nowhere: no script leaves any, a hand in the data may.
-- keys: jobs life ready wait retry done_jobs dead_jobs cancelled_jobs
-- arguments: a cursor, how many to look at; or "" and ids that have no lease, to be made ready where they are
--   in no list
-- result: {next cursor, ids that are in no list: they have a lease, or are nowhere}, or {"", ids made ready}
-- complexity: O(log of the queue) a job; at most 50 jobs

local now = clock() / 1000000
local cursor, page, found = '', {}, {}
if ARGV[1] ~= '' then
  local reply = call('HSCAN', JOBS, ARGV[1], 'COUNT', ARGV[2])
  cursor, page = reply[1], reply[2]
else
  for at = 2, #ARGV do
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
    if ARGV[1] == '' then call('ZADD', READY, score_of(rank_of(record), due_of(record, life)), id) end
    found[#found + 1] = id
  end
end
return { cursor, found }
