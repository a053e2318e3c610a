-- How a job is written down; every script begins with this.
--
-- Of a queue, all under one hash tag:
--   ids        zset  every job's id (microseconds since 1970), by itself
--   jobs       hash  id -> record: what the job is; only a replacement changes it
--   payloads   hash  id -> payload, where it is too large for the record
--   life       hash  id -> JSON: what has become of it; a job that was never settled has none
--   results    hash  id -> what its handler returned
--   progress   hash  id -> JSON: how far its attempt is
--   ready      zset  id, the best first: by priority, then due time
--   wait retry zset  rank and id, by due time: jobs for later, and failed ones before their next attempt
--   lease      zset  id, by the time when its lease runs out
--   runs       hash  id -> "token:begin:worker" of the lease that holds it: the fence
--   cancel     set   ids cancelled as they ran
--   crashed    set   ids of unfinished jobs whose worker died
--   uniq       hash  fingerprint -> id of the unfinished job that holds it
--   done dead cancelled  zset  id, by the time of its end
--   seq        the newest id;  idle: set of workers with nothing to do;  paused;  ticks: hash cron -> tick
--
-- A record: uniqueness (0 no, 1 yes, 2 until started), own or computed fingerprint (o c), payload here or
-- apart (- L), rank (100 - priority, 3 digits), length of the fingerprint (4 digits), fingerprint, length of the
-- kind (4 digits), kind, and what only clients read, which begins with two doubles: created at, run after.

local call = redis.call
local LEVEL = 35184372088832 -- 2^45: due times of one priority, in eighths of a millisecond
local PENDING, RETRYING, RUNNING, SUCCEEDED, DEAD, CANCELLED = 0, 1, 2, 3, 4, 5

local function clock()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2]) -- microseconds, exact in a double
end

local function score_of(record, run_after)
  local ticks = math.floor(run_after * 8000)
  if ticks < 0 then ticks = 0 elseif ticks >= LEVEL then ticks = LEVEL - 1 end
  return tonumber(string.sub(record, 4, 6)) * LEVEL + ticks
end

local function waiting(record, id)
  return string.sub(record, 4, 6) .. id
end

local function fingerprint_of(record)
  return string.sub(record, 11, 10 + tonumber(string.sub(record, 7, 10)))
end

local function kind_of(record)
  local at = 11 + tonumber(string.sub(record, 7, 10))
  return string.sub(record, at + 4, at + 3 + tonumber(string.sub(record, at, at + 3)))
end

local function times_at(record)
  local at = 11 + tonumber(string.sub(record, 7, 10))
  return at + 4 + tonumber(string.sub(record, at, at + 3))
end

local function life_of(life)
  life = life and cjson.decode(life) or { s = PENDING }
  life.n, life.c = life.n or 0, life.c or 0
  return life
end

local function due_of(record, life)
  if life and life.at then return tonumber(life.at) end
  return (struct.unpack('<d', record, times_at(record) + 8))
end

-- Call one worker that has nothing to do; those that do not hear are dead, and are forgotten.
local function wake(idle, channel, queue, tries)
  for _ = 1, tries do
    local worker = call('SPOP', idle)
    if not worker or call('PUBLISH', channel .. worker, queue) > 0 then return end
  end
end
