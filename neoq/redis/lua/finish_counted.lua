-- Record that jobs have succeeded whose ends concern their groups or their lines, each only under its current
-- lease; none of them waits for other jobs.
-- keys: lease jobs life uniq done_jobs payloads results progress cancel crashed ids steps spent ready idle
-- keys: ends tell limits lines turn busy pace paced tats
-- takes: keep again count named channel queue tries
-- arguments: 1 to keep those without a group for a while, 1 if this repeats a call whose reply was lost, number
--   of jobs, the number of names, the prefix of the workers' channels, the queue, how many workers to call; then
--   their leases; the fingerprints that they hold ("" for none); the names of their groups ("" for none), or one
--   for all of them, or none at all; id and life as JSON of each; id and result of those that have one
-- result: {ids of the stale ones, names of groups and their totals, 1 if other jobs may start now}
-- complexity: O(log of the queue) a job; at most 50 jobs
-- A group keeps its jobs, whatever the settings say.

keep, again, count, named = keep == '1', again == '1', tonumber(count), tonumber(named)
local micros = clock()
local now = micros / 1000000
local ended = string.format('%.6f', now)
local FINGERPRINTS, NAMES = FIRST + count, FIRST + 2 * count
local LIVES = NAMES + named
local RESULTS_AT = LIVES + 2 * count
local one_name = named == 1 and ARGV[NAMES] or named == 0 and ''

local stale, live, fingerprints, growth = {}, {}, {}, {}

-- Take in which of the leases are there, one by one; return whether any is.
local function finish_each(scores)
  local leases, lives, ends, gone, seen = {}, {}, {}, {}, {}
  for place = 1, count do
    local lease, id = ARGV[FIRST + place - 1], ARGV[LIVES + 2 * place - 2]
    if scores[place] and not seen[id] then
      live[#live + 1], leases[#leases + 1] = id, lease
      local fingerprint, name = ARGV[FINGERPRINTS + place - 1], one_name or ARGV[NAMES + place - 1]
      if fingerprint ~= '' then fingerprints[#fingerprints + 1] = fingerprint end
      if name ~= '' then grow_by(growth, name, WELL, 1) end
      seen[id] = (keep or name ~= '') and 'kept' or 'gone'
      if seen[id] == 'kept' then
        local at = #lives
        lives[at + 1], lives[at + 2] = id, ARGV[LIVES + 2 * place - 1]
        ends[at + 1], ends[at + 2] = ended, id
      else
        gone[#gone + 1] = id
      end
    else
      local known = again and call('HGET', LIFE, id)
      if not again or known and life_of(known).t ~= lease then stale[#stale + 1] = id end
    end
  end
  if #live == 0 then return false end
  call('ZREM', LEASE, unpack(leases))
  if #gone > 0 then
    for _, key in ipairs({ JOBS, LIFE, PAYLOADS }) do call('HDEL', key, unpack(gone)) end
    call('ZREM', IDS, unpack(gone))
  end
  if #lives > 0 then
    call('HSET', LIFE, unpack(lives))
    call('ZADD', DONE_JOBS, unpack(ends))
  end
  for at = RESULTS_AT, #ARGV, 2 do
    if seen[ARGV[at]] == 'kept' then call('HSET', RESULTS, ARGV[at], ARGV[at + 1]) end
  end
  return true
end

-- As `finish_each` where all leases were there, and all jobs are kept: the arguments are as the commands take them.
local function finish_all()
  local ends = {}
  for place = 1, count do
    local id, fingerprint = ARGV[LIVES + 2 * place - 2], ARGV[FINGERPRINTS + place - 1]
    live[place], ends[2 * place - 1], ends[2 * place] = id, ended, id
    if fingerprint ~= '' then fingerprints[#fingerprints + 1] = fingerprint end
  end
  if one_name ~= '' then grow_by(growth, one_name, WELL, count) end
  call('HSET', LIFE, unpack(ARGV, LIVES, RESULTS_AT - 1))
  call('ZADD', DONE_JOBS, unpack(ends))
  if #ARGV >= RESULTS_AT then call('HSET', RESULTS, unpack(ARGV, RESULTS_AT)) end
end

local scores = call('ZMSCORE', LEASE, unpack(ARGV, FIRST, FIRST + count - 1))
local all = one_name and (keep or one_name ~= '')
for place = 1, count do all = all and scores[place] end
if all and call('ZREM', LEASE, unpack(ARGV, FIRST, FIRST + count - 1)) == count then -- none of them is there twice
  finish_all()
elseif not finish_each(scores) then
  return { stale, {}, 0 }
end

if call('EXISTS', CANCEL, CRASHED, PROGRESS, STEPS) > 0 then
  call('SREM', CANCEL, unpack(live))
  call('SREM', CRASHED, unpack(live))
  call('HDEL', PROGRESS, unpack(live))
  drop_steps_of(STEPS, live)
end
if #fingerprints > 0 then fingerprints = unspent(SPENT, fingerprints, now) end
if #fingerprints > 0 then call('HDEL', UNIQ, unpack(fingerprints)) end
local more = 0
if call('EXISTS', LIMITS) == 1 then
  if leave_all(live, micros) > 0 or limits_of().max_running and call('EXISTS', READY) == 1 then more = 1 end
end
if more == 1 then wake(IDLE, channel, queue, tries) end
return { stale, write_growth(growth, ENDS, TELL, now), more }
