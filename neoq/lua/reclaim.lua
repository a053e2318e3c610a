-- Take jobs from workers that died, one crash charged.
-- keys: lease runs jobs life uniq ready dead_jobs cancelled_jobs cancel progress crashed idle
-- arguments: max_crashes, the error of a job that dies, the channel of workers, the queue, how many workers to
--   call; then for each job: id, and its run as it was seen ("" for one whose lease has run out)
-- result: {ids of the returned ones, ids of the dead ones}
-- complexity: O(log of the queue) a job; at most 500 jobs

local now = clock() / 1000000
local returned, dead = {}, {}
for at = 6, #ARGV, 2 do
  local id = ARGV[at]
  local run = call('HGET', RUNS, id)
  local theirs = run and run == ARGV[at + 1]
  if run and ARGV[at + 1] == '' then
    local expires = call('ZSCORE', LEASE, id)
    theirs = not expires or tonumber(expires) <= now
  end
  local record = theirs and call('HGET', JOBS, id)
  if theirs then
    call('HDEL', RUNS, id)
    call('ZREM', LEASE, id)
    call('HDEL', PROGRESS, id)
  end
  if record then
    local life = life_of(call('HGET', LIFE, id))
    life.c = life.c + 1
    life.ran = string.match(run, ':([^:]*):')
    local ends
    if call('SREM', CANCEL, id) == 1 then
      life.s, ends = CANCELLED, CANCELLED_JOBS
    elseif life.c >= tonumber(ARGV[1]) then
      life.s, ends = DEAD, DEAD_JOBS
      life.err = string.gsub(ARGV[2], '%%d', life.c, 1)
      dead[#dead + 1] = id
    else
      life.s = life.n > 0 and RETRYING or PENDING
      returned[#returned + 1] = id
    end
    if ends then
      life.fin = string.format('%.6f', now)
      if string.byte(record) == 49 then call('HDEL', UNIQ, fingerprint_of(record)) end
      call('SREM', CRASHED, id)
      call('ZADD', ends, now, id)
    else
      call('SADD', CRASHED, id)
      call('ZADD', READY, score_of(record, due_of(record, life)), id)
    end
    call('HSET', LIFE, id, cjson.encode(life))
  end
end
if #returned > 0 then wake(IDLE, ARGV[3], ARGV[4], tonumber(ARGV[5])) end
return { returned, dead }
