-- Look at jobs.
-- keys: jobs life runs payloads results progress cancel
-- arguments: ids
-- result: {now, records, lives, runs, payloads, results, progresses, whether cancelled}
-- complexity: O(1) a job; at most 500 jobs

local time = call('TIME')
return {
  time[1] .. '.' .. string.format('%06d', time[2]),
  call('HMGET', JOBS, unpack(ARGV)),
  call('HMGET', LIFE, unpack(ARGV)),
  call('HMGET', RUNS, unpack(ARGV)),
  call('HMGET', PAYLOADS, unpack(ARGV)),
  call('HMGET', RESULTS, unpack(ARGV)),
  call('HMGET', PROGRESS, unpack(ARGV)),
  call('SMISMEMBER', CANCEL, unpack(ARGV)),
}
