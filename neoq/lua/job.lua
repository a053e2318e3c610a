-- How a job is written down; every script begins with this.
--
-- Of a queue, all under one hash tag:
--   ids        zset  id, or "first:number" of a batch that was stored together, by the (first) id: the order
--                    of the enqueues. An id is the microsecond of its enqueue, made later where that is taken
--   jobs       hash  id -> record: what the job is; only a replacement changes it
--   payloads   hash  id -> payload, where it is too large for the record
--   life       hash  id -> JSON: what has become of it; a job that was never settled has none
--   results    hash  id -> what its handler returned
--   progress   hash  id -> JSON: how far its attempt is
--   ready      zset  id, the best first: by priority, then due time
--   wait retry zset  rank and id, by due time: jobs for later, and failed ones before their next attempt
--   lease      zset  "id:token:worker", by the time when the lease runs out: to remove it is the fence
--   cancel     set   ids cancelled as they ran
--   crashed    set   ids of unfinished jobs whose worker died
--   uniq       hash  fingerprint -> id of the unfinished job that holds it
--   done dead cancelled  zset  id, by the time of its end
--   seq        the newest id;  idle: set of workers with nothing to do;  paused;  ticks: hash cron -> tick
--   last:...   what one process added last, so that it can say it twice
--   gate:...   the batch that one process may add in the transaction that set it
--
-- A record: uniqueness (0 no, 1 yes, 2 until started; 3 4 5 the same where the payload is kept apart), own or
-- computed fingerprint (o c), rank (100 - priority, 3 digits), length of the fingerprint (4 digits), fingerprint,
-- length of the kind (4 digits), kind, and what only clients read, which begins with two doubles: when it was
-- created, and after when it runs.

local call, sub, byte = redis.call, string.sub, string.byte
local LEVEL = 35184372088832 -- 2^45: due times of one priority, in eighths of a millisecond
local PENDING, RETRYING, RUNNING, SUCCEEDED, DEAD, CANCELLED = 0, 1, 2, 3, 4, 5

local function clock()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2]) -- microseconds, exact in a double
end

local function score_of(rank, run_after)
  local ticks = math.floor(run_after * 8000)
  if ticks < 0 then ticks = 0 elseif ticks >= LEVEL then ticks = LEVEL - 1 end
  return tonumber(rank) * LEVEL + ticks
end

local function ready_of(ready, wait, retry, now)
  return call('ZCARD', ready) + call('ZCOUNT', wait, '-inf', now) + call('ZCOUNT', retry, '-inf', now)
end

local function rank_of(record)
  return sub(record, 3, 5)
end

local function waiting(record, id)
  return sub(record, 3, 5) .. id
end

local function is_apart(record)
  return byte(record) > 50
end

local function uniqueness_of(record)
  return (byte(record) - 48) % 3
end

local function fingerprint_of(record)
  local length = sub(record, 6, 9)
  if length == '0032' then return sub(record, 10, 41) end
  return sub(record, 10, 9 + tonumber(length))
end

local function kind_of(record)
  local at = 10 + tonumber(sub(record, 6, 9))
  return sub(record, at + 4, at + 3 + tonumber(sub(record, at, at + 3)))
end

local function times_at(record)
  local at = 10 + tonumber(sub(record, 6, 9))
  return at + 4 + tonumber(sub(record, at, at + 3))
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

-- Whether a job runs: it neither waits nor has ended.
local function is_running(ready, wait, retry, id, record, life)
  if life.s >= SUCCEEDED then return false end
  return not (call('ZSCORE', ready, id)
    or call('ZSCORE', wait, waiting(record, id))
    or call('ZSCORE', retry, waiting(record, id)))
end

-- Call one worker that has nothing to do; those that do not hear are dead, and are forgotten.
local function wake(idle, channel, queue, tries)
  for _ = 1, tries do
    local worker = call('SPOP', idle)
    if not worker or call('PUBLISH', channel .. worker, queue) > 0 then return end
  end
end
