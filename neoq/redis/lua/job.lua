-- How a job is written down; every script begins with this.
--
-- Of a queue, all under one hash tag:
--   ids        zset  id, or "first:number:step" of a batch that was stored together, by the (first) id: the
--                    order of the enqueues. neoq/redis/keys.py says what an id is made of
--   jobs       hash  id -> record: what the job is; only a replacement changes it
--   payloads   hash  id -> payload, where it is too large for the record
--   life       hash  id -> JSON: what has become of it; a job that was never settled has none. Its "ats" are the
--                    attempts that failed, see neoq/attempts.py
--   results    hash  id -> what its handler returned
--   progress   hash  id -> JSON: the progress of its attempt
--   steps      hash  id -> "number:signals:crashes:base", how many steps it has recorded, how many of them are
--                    signals that it did not wait for, the crashes before its last progress, and after which
--                    step it began anew; id/place -> name of a step; id:name -> what was recorded: its time, 1
--                    if it lasts, retries and crashes before it, a random text, and the data
--   ready      zset  id, the best first: by priority, then due time
--   wait retry zset  rank and id, by due time: jobs for later, and failed ones before their next attempt
--                    One that is held is in wait, too, by the time of its timeout, or +inf
--   held       zset  id, by the same time: those in wait that are held. Their lives say by what: h, and the
--                    signal in aw. What has become due is taken out with the next claim
--   lease      zset  "id:token:worker", by the time when the lease runs out: to remove it is the fence
--   cancel     set   ids that were cancelled while they ran
--   crashed    set   ids of unfinished jobs whose worker died
--   uids       hash  uid -> id; one whose job does not exist any more counts for nothing
--   uniq       hash  fingerprint -> id of the unfinished job that holds it
--   spent      hash  fingerprint -> "time id": until when it is held, whatever becomes of that job; it stays in
--                    uniq for as long
--   limits     hash  what may run: by_key 1, ordered 1, hold_dead 1, slots, max_running, aging in seconds, and in
--                    microseconds spacing, tolerance, key_spacing, key_tolerance; tat, the time from which on
--                    the rate is used up; scan and free, where the looks at all lines and at all turns go on
--                    after a change; form, score and id of the first ready job that is not put in its line
--                    yet, 1 for the first of all; off 1 until nothing is left of them; what clients have set
--   lines      zset  by member, all scores 0: length of the key (4 digits), key, 0, rank, due time and id
--   turn       hash  id -> key of its line: the jobs that are ready or run, or that keep their turn
--   busy       hash  key -> how many of it have their turn
--   pace       hash  key -> the one of it that has its turn and has not started, where the key has a rate
--   paced      zset  key, by the microsecond in which the next of it may start
--   tats       zset  key, by the microsecond from which on its rate is used up
--   done dead cancelled  zset  id, by the time of its end
--   groups     hash  name of a group -> JSON, at home: in the queue of the job that waits for its jobs, which are
--                    in any queue. Its "q" has what was told of each queue; see neoq/redis/groups.py
--   halts      set   names of groups, at home, of which the jobs that wait are being cancelled
--   members    zset  name of its group and id of a job, in the order of the text
--   ends       hash  name of a group -> what this queue has counted for it: numbers that only grow
--   tell       zset  name of a group whose numbers were not told at home, by since when
--   opener     hash  name of a batch -> turn and number of the producer that may add members here
--   known      hash  name of a named batch and fingerprint -> id of the member that has it, ended or not
--   stopped    zset  name of a group of which no job starts any more, by since when
--   out        hash  "id:token:number" of an attempt -> when it was settled, and jobs that follow: to be added to
--                    their queues, see neoq/redis/outbox.py
--   took       zset  such an entry whose jobs were added here, by when it left the outbox, +inf before that
--   seq        the newest id;  idle: zset of workers with nothing to do, all scores 0, each after a name for the
--              kinds that it takes (* for all) and a colon;  paused;  ticks: hash cron -> tick
--   last:...   what one process added last, so that it can be repeated
--   gate:...   the batch that one process may add in the transaction that set it
-- Of all queues, and in a cluster of each queue, which has what only itself is in:
--   queues     hash  queue -> its number, and '' -> "layout 2": how all this is written down
--
-- A record: uniqueness (0 no, 1 yes, 2 until started; 3 4 5 the same where the payload is kept apart), own or
-- computed fingerprint (o c), rank (100 - priority, 3 digits); the lengths of fingerprint, kind, key and group (4
-- digits each), and these; and what only clients read, which begins with two doubles: when it was created, and
-- after when it runs.

local call, sub, byte = redis.call, string.sub, string.byte
local LEVEL = 35184372088832 -- 2^45: due times of one priority, in eighths of a millisecond
local PENDING, RETRYING, RUNNING, SUCCEEDED, DEAD, CANCELLED = 0, 1, 2, 3, 4, 5

local function clock()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2]) -- microseconds, exact in a double
end

local function score_of(rank, run_after)
  rank = tonumber(rank)
  if not (rank and rank >= 0 and rank <= 200) then rank = 100 end -- another program wrote it
  local ticks = math.floor(run_after * 8000)
  if ticks >= LEVEL then ticks = LEVEL - 1 elseif not (ticks >= 0) then ticks = 0 end
  return rank * LEVEL + ticks
end

local function ready_of(ready, wait, retry, lines, now)
  return call('ZCARD', ready) + call('ZCARD', lines) + call('ZCOUNT', wait, '-inf', now) + call('ZCOUNT', retry, '-inf', now)
end

local function rank_of(record)
  return sub(record, 3, 5)
end

local function waiting(record, id)
  return sub(record, 3, 5) .. id
end

-- What stands for a record that cannot be read: it has no fingerprint, and nothing is known of it.
local NO_RECORD = '0c100' .. string.rep('0000', 4) .. string.rep('\0', 16)
-- A record that every function here can read: the stored one, or what stands for it; nil where there is none.
local function sound(record)
  if not record then return nil end
  local one, two, three, four =
    string.match(record, '^[0-5][oc][012]%d%d(%d%d%d%d)(%d%d%d%d)(%d%d%d%d)(%d%d%d%d)')
  if not one or sub(record, 3, 5) > '200' or #record < 37 + one + two + three + four then return NO_RECORD end
  return record
end

-- The members by which a job may be among those that wait: where its rank is not known, those of all ranks.
local function waiting_of(record, id)
  if record ~= NO_RECORD then return { waiting(record, id) } end
  local members = {}
  for rank = 0, 200 do members[rank + 1] = string.format('%03d', rank) .. id end
  return members
end

local function is_id(text)
  return #text <= 19 and string.find(text, '^[1-9]%d*$') ~= nil
end

local function is_apart(record)
  return byte(record) > 50
end

local function uniqueness_of(record)
  return (byte(record) - 48) % 3
end

local function fingerprint_of(record)
  local length = sub(record, 6, 9)
  if length == '0032' then return sub(record, 22, 53) end
  return sub(record, 22, 21 + tonumber(length))
end

local function kind_of(record)
  local at = 22 + tonumber(sub(record, 6, 9))
  return sub(record, at, at + tonumber(sub(record, 10, 13)) - 1)
end

-- The key of a job's line; "" for none.
local function key_of(record)
  local at = 22 + sub(record, 6, 9) + sub(record, 10, 13)
  return sub(record, at, at + tonumber(sub(record, 14, 17)) - 1)
end

-- The group that a job says that it belongs to; "" for none.
local function group_of(record)
  local length = sub(record, 18, 21)
  if length == '0000' then return '' end
  local at = 22 + sub(record, 6, 9) + sub(record, 10, 13) + sub(record, 14, 17)
  return sub(record, at, at + tonumber(length) - 1)
end

local function times_at(record)
  return 22 + sub(record, 6, 9) + sub(record, 10, 13) + sub(record, 14, 17) + sub(record, 18, 21)
end

-- A whole number of a life, 0 where it is none.
local function count_in(value, highest)
  value = tonumber(value)
  return value and value >= 0 and value <= highest and value % 1 == 0 and value or 0
end

-- What has become of a job: only what we write ourselves, for another program may have written there.
local function life_of(life)
  if not life then return { s = PENDING, n = 0, c = 0 } end
  local fine, read = pcall(cjson.decode, life)
  if not fine or type(read) ~= 'table' then read = {} end
  local clean = { s = count_in(read.s, CANCELLED), n = count_in(read.n, 2147483646), c = count_in(read.c, 32766) }
  for _, name in ipairs({ 'err', 'tb', 'ats', 'pf', 'pt', 't', 'h', 'aw' }) do
    if type(read[name]) == 'string' then clean[name] = read[name] end
  end
  for _, name in ipairs({ 'at', 'ran', 'fin' }) do
    local time = tonumber(read[name])
    if time and math.abs(time) <= 1e12 then clean[name] = read[name] end
  end
  if read.nodl == true then clean.nodl = true end
  if read.r then clean.r = count_in(read.r, 10000) end
  return clean
end

local function due_of(record, life)
  if life and life.at then return tonumber(life.at) end
  local due = struct.unpack('<d', record, times_at(record) + 8)
  return due == due and due or 0
end

-- What only clients read, where it can be read.
local function extra_of(record)
  local at = times_at(record) + 16
  local fine, extra = pcall(cjson.decode, sub(record, at + 5, at + 4 + struct.unpack('<I4', record, at + 1)))
  return fine and type(extra) == 'table' and extra or {}
end

-- A record with the group of another one: a replacement stays in it.
local function with_group_of(before, after)
  local group, times = group_of(before), times_at(after)
  return sub(after, 1, 17) .. string.format('%04d', #group) .. sub(after, 22, times - #group_of(after) - 1)
    .. group .. sub(after, times)
end

-- When a held job is due, whatever it waits for: at its deadline, or a time before.
local function timeout_of(record, life, at)
  local deadline = not life.nodl and tonumber(extra_of(record).deadline) or math.huge
  return math.min(tonumber(at) or math.huge, deadline)
end

-- A record with the uid of another one, which stands in the JSON for clients: a replacement keeps it.
local function with_uid_of(before, after)
  local at, extra = times_at(after) + 16, extra_of(before)
  if type(extra.uid) ~= 'string' then return after end
  local length = struct.unpack('<I4', after, at + 1)
  local uid = '"uid":' .. cjson.encode(extra.uid) .. '}'
  local json = length > 2 and sub(after, at + 5, at + 3 + length) .. ',' .. uid or '{' .. uid
  return sub(after, 1, at) .. struct.pack('<I4', #json) .. json .. sub(after, at + 5 + length)
end

-- Whether there is a job that may hold a fingerprint.
local function is_unfinished(jobs, lives, id)
  if call('HEXISTS', jobs, id) == 0 then return false end
  return life_of(call('HGET', lives, id)).s < SUCCEEDED
end

-- Whether a fingerprint is held for a while, whatever has become of its job.
local function is_spent(spent, fingerprint, now)
  local span = call('HGET', spent, fingerprint)
  return span and (tonumber(string.match(span, '^%S+')) or 0) > now
end

-- Of fingerprints that jobs held which have ended those that no span of time holds any more.
local function unspent(spent, fingerprints, now)
  if call('EXISTS', spent) == 0 then return fingerprints end
  local free = {}
  for _, fingerprint in ipairs(fingerprints) do
    if not is_spent(spent, fingerprint, now) then free[#free + 1] = fingerprint end
  end
  return free
end

-- The newest id as a number; what cannot be one counts as none.
local function newest_of(text)
  local newest = tonumber(text or 0)
  return newest and newest >= 0 and newest < 9007199254740992 and newest or 0
end

-- The first id after the newest, of those that the queue has.
local function next_id(newest, id, step)
  local later = newest - newest % step + id % step
  return later > newest and later or later + step
end

-- Wake one idle worker that takes all kinds. Where there is none, wake one of each group of workers that take the
-- same kinds: the kind of the job is not known here. Workers that do not receive it are dead, and idle no more.
local function wake(idle, channel, queue, tries)
  local from, left = '-', tonumber(tries)
  local idler = redis.pcall('ZPOPMIN', idle)[1] -- what was done is not undone if the wake fails
  while idler do
    local colon = string.find(idler, ':', 1, true) or 0
    local kinds = sub(idler, 1, colon - 1)
    left = call('PUBLISH', channel .. sub(idler, colon + 1), queue) > 0 and 0 or left - 1
    if left == 0 then
      if kinds == '*' then return end
      from, left = '(' .. kinds .. ';', tonumber(tries)
    end
    idler = call('ZRANGEBYLEX', idle, from, '+', 'LIMIT', 0, 1)[1]
    if idler then call('ZREM', idle, idler) end
  end
end
