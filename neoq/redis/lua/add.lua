-- Add jobs to a queue, all or none; where an unfinished one has a fingerprint, do as its on_duplicate says.
-- keys: ids jobs ready wait uniq seq idle last payloads life retry ticks gate queues uids
-- keys: held took members ends tell opener known stopped groups
-- keys: spent
-- keys: lines busy turn limits pace paced tats
-- takes: token room gated channel queue tries base step cron tick entry deadline void opened batch
-- arguments: token ("" for none), room ("" for any: ready jobs there may be), 1 if gate.lua has to let it
--   pass, the prefix of the workers' channels, the queue, how many workers to try, first id, step between ids,
--   cron and tick in seconds ("" for none), the entry of an outbox that they come from and until when it may
--   be delivered ("" for none), 1 if its jobs of groups are left out; what is known of the producer of members
--   (""  for none), the batch that the job is the callback of ("" for none); then for each job: on_duplicate (r return, e raise, p replace, s
--   skip) with u and the span in which it is unique, d and by how much it is put off at most, 1 if it waits, run_after, record, payload where it is apart, uid, fingerprint as a member of a named batch ("" for none)
-- result: {"added", first id, place and id of the holder of each duplicate...}, {"again", ids}, {"full"},
--   {"unknown"} where the queue has no number, {"shut"} where the gate is, {"known"} for a tick, {"taken",
--   place, id of the holder or, below 0, its place}, {"closed"} for a member that is refused; for
--   an entry {"sent", names of groups and their totals}, {"took"} or {"late"}
-- complexity: O(log of the queue) a job; at most 50 jobs

base, step = tonumber(base), tonumber(step)
local STEP = 7
local count = (#ARGV - FIRST + 1) / STEP

if call('HEXISTS', QUEUES, queue) == 0 then return { 'unknown' } end
if token ~= '' then
  local last = call('GET', LAST)
  if last and sub(last, 1, #token) == token then return { 'again', sub(last, #token + 1) } end
end

if gated == '1' and call('GET', GATE) ~= token then return { 'shut' } end

local micros = clock()
local now = micros / 1000000

-- What was read of an outbox so long ago may have been delivered, and forgotten since.
if entry ~= '' then
  if now > tonumber(deadline) then return { 'late' } end
  if call('ZADD', TOOK, 'NX', '+inf', entry) == 0 then return { 'took' } end
  call('ZREMRANGEBYSCORE', TOOK, '-inf', now - 600)
end

-- A job whose group is stopped, or whose batch is closed to its producer, is left out.
local names, growth, taken = {}, {}, {}
for place = 0, count - 1 do
  local name = name_of(ARGV[FIRST + place * STEP + 3])
  names[place] = name
  local refused = name and (void == '1' or call('ZSCORE', STOPPED, name))
  if refused and entry ~= '' then
    taken[place] = '0'
    grow_by(growth, name, VOID, 1)
  elseif name and entry == '' then
    local opener = call('HGET', OPENER, name)
    if refused or opener and opener ~= opened then return { 'closed' } end
    if not opener then call('HSET', OPENER, name, opened) end
  end
end

if cron ~= '' then
  local last = tonumber(call('HGET', TICKS, cron) or nil)
  local older = last and last - tonumber(tick)
  if older and older >= 0 and older < 10800 then return { 'known' } end -- beyond, the clock was wrong then
  call('HSET', TICKS, cron, tick)
end

if room ~= '' then
  local wanted = 0
  for place = 0, count - 1 do
    if ARGV[FIRST + place * STEP + 1] == '0' then wanted = wanted + 1 end
  end
  if wanted > 0 and ready_of(READY, WAIT, RETRY, LINES, now) + wanted > tonumber(room) then return { 'full' } end
end

-- Which jobs have the uids, and may not be others.
local holders, named, joins = {}, {}, {}
for place = 0, count - 1 do
  local print = ARGV[FIRST + place * STEP + 6]
  if print ~= '' and names[place] then
    local field = names[place] .. print
    local stored = joins[field] or call('HGET', KNOWN, field)
    if stored and (type(stored) == 'number' or is_id(stored)) then
      taken[place], named[place] = stored, true
      holders[#holders + 1] = place
    else
      joins[field] = -place - 1
    end
  end
end
local first_named = {}
for place = 0, count - 1 do
  local uid = ARGV[FIRST + place * STEP + 5]
  if uid ~= '' and not taken[place] then
    local stored = first_named[uid] or call('HGET', UIDS, uid)
    if stored and (type(stored) == 'number' or call('HEXISTS', JOBS, stored) == 1) then
      if byte(ARGV[FIRST + place * STEP]) == 101 then return { 'taken', place, stored } end
      taken[place], named[place] = stored, true
      holders[#holders + 1] = place
    else
      first_named[uid] = -place - 1
    end
  end
end

-- Who holds the fingerprints: one that is stored, or an earlier one of this batch.
local fingerprints, places = {}, {}
for place = 0, count - 1 do
  local record = ARGV[FIRST + place * STEP + 3]
  if uniqueness_of(record) ~= 0 and not taken[place] then
    fingerprints[#fingerprints + 1] = fingerprint_of(record)
    places[#places + 1] = place
  end
end
if #fingerprints > 0 then
  local found = call('HMGET', UNIQ, unpack(fingerprints))
  local first = {}
  for at, fingerprint in ipairs(fingerprints) do
    local place = places[at]
    local stored = found[at]
    local holder = first[fingerprint] or stored
      and (is_unfinished(JOBS, LIFE, stored) or is_spent(SPENT, fingerprint, now)) and stored
    if holder then
      if byte(ARGV[FIRST + place * STEP]) == 101 then return { 'taken', place, holder } end
      taken[place] = holder
      holders[#holders + 1] = place
    else
      first[fingerprint] = -place - 1 -- negative: the place of an earlier one in this batch
    end
  end
end

local newest = newest_of(call('SET', SEQ, string.format('%.0f', base + (count - 1) * step), 'GET'))
if newest >= base then
  base = next_id(newest, base, step)
  call('SET', SEQ, string.format('%.0f', base + (count - 1) * step))
end

-- The span in which a job is unique, or by how much replacements put it off.
local function span_of(place, letter)
  return tonumber(string.match(ARGV[FIRST + place * STEP], letter .. '([%d.e+-]+)') or nil)
end

local limits = nil
local function by_key()
  limits = limits or limits_of()
  return limits.by_key
end

local lined = { ids = {}, keys = {}, records = {}, dues = {} } -- of those that are due and may have to wait
local records, uniques, ready, waits, large, members = {}, {}, {}, {}, {}, {}
local head
for place = 0, count - 1 do
  if not taken[place] then
    local at = FIRST + place * STEP
    local record = ARGV[at + 3]
    local id = string.format('%.0f', base + place * step)
    local due = tonumber(ARGV[at + 2])
    records[#records + 1] = id
    records[#records + 1] = record
    if ARGV[at + 5] ~= '' then call('HSET', UIDS, ARGV[at + 5], id) end
    local name = names[place]
    if name then
      members[#members + 1] = 0
      members[#members + 1] = member_of(name, id)
      if ARGV[at + 6] ~= '' then call('HSET', KNOWN, name .. ARGV[at + 6], id) end
      grow_by(growth, name, SENT, entry == '' and 1 or 0) -- an entry was counted where it was written
      growth[name].new = true
    end
    if uniqueness_of(record) ~= 0 then
      uniques[#uniques + 1] = fingerprint_of(record)
      uniques[#uniques + 1] = id
      local span = span_of(place, 'u')
      if span then
        call('HSET', SPENT, fingerprint_of(record), string.format('%.6f %s', now + span, id))
      elseif call('EXISTS', SPENT) == 1 then
        call('HDEL', SPENT, fingerprint_of(record))
      end
    end
    if is_apart(record) then
      large[#large + 1] = id
      large[#large + 1] = ARGV[at + 4]
    end
    if batch ~= '' then
      local life = { s = PENDING, n = 0, c = 0, h = 'batch', r = 0 }
      local timeout = timeout_of(record, life)
      call('HSET', GROUPS, id .. '/0/', batch)
      call('HSET', LIFE, id, cjson.encode(life))
      call('ZADD', HELD, timeout, id)
      call('ZADD', WAIT, timeout, waiting(record, id))
    elseif ARGV[at + 1] == '1' and due > now then
      waits[#waits + 1] = due
      waits[#waits + 1] = waiting(record, id)
      if not head or due < head then head = due end
    elseif key_of(record) ~= '' and by_key() and not is_behind_front(limits, score_of(rank_of(record), due), id) then
      local number = #lined.ids + 1
      lined.ids[number], lined.keys[number], lined.records[number] = id, key_of(record), record
      lined.dues[number] = due
    else
      ready[#ready + 1] = score_of(rank_of(record), due)
      ready[#ready + 1] = id
    end
  end
end
local advancing = {}
if #lined.ids > 0 then
  local in_line
  in_line, advancing = line_up(limits, lined.ids, lined.keys, lined.records, {})
  for place, id in ipairs(lined.ids) do
    if not in_line[place] then
      ready[#ready + 1] = score_of(rank_of(lined.records[place]), lined.dues[place])
      ready[#ready + 1] = id
    end
  end
end
local call_one = #ready > 0
if head then
  local first = call('ZRANGE', WAIT, 0, 0, 'WITHSCORES')
  call_one = call_one or not first[2] or head < tonumber(first[2])
end
if #records > 0 then
  call('HSET', JOBS, unpack(records))
  local first = string.format('%.0f', base)
  call('ZADD', IDS, first, count == 1 and first or first .. ':' .. count .. ':' .. step)
end
if #members > 0 then call('ZADD', MEMBERS, unpack(members)) end
if #large > 0 then call('HSET', PAYLOADS, unpack(large)) end
if #uniques > 0 then call('HSET', UNIQ, unpack(uniques)) end
if #ready > 0 then call('ZADD', READY, unpack(ready)) end
if #waits > 0 then call('ZADD', WAIT, unpack(waits)) end
for _, key in ipairs(advancing) do
  if advance(limits, key, micros) > 0 then call_one = true end
end

-- A waiting job takes what the newer one brings, or is brought forward.
local function move(id, record, before, after, line)
  limits = limits or limits_of()
  if line then call('ZREM', LINES, line) end
  call('ZREM', READY, id)
  call('ZREM', WAIT, waiting(before, id))
  call('ZREM', RETRY, waiting(before, id))
  local life = life_of(call('HGET', LIFE, id))
  if key_of(before) ~= key_of(record) or after > now and life.s ~= RETRYING then leave(id, micros) end
  if after <= now then
    come(limits, id, record, life, score_of(rank_of(record), after), micros)
  else
    call('ZADD', life.s == RETRYING and RETRY or WAIT, after, waiting(record, id))
  end
  call_one = true
end

local function meet(place, id)
  local at = FIRST + place * STEP
  local meets = sub(ARGV[at], 1, 1)
  if meets == 's' or named[place] then return end
  local before = sound(call('HGET', JOBS, id))
  if not before or before == NO_RECORD then return end
  local life = call('HGET', LIFE, id)
  local known = life_of(life)
  if known.s >= SUCCEEDED or is_held(HELD, id, now) then return end
  if is_running(READY, WAIT, RETRY, id, before, known) then return end
  local line = key_of(before) ~= '' and line_member(key_of(before), before, known, id)
  local due = tonumber(ARGV[at + 2])
  if meets == 'p' then
    local new = ARGV[at + 3]
    local times, old = times_at(new), times_at(before)
    local latest = span_of(place, 'd')
    due = math.min(due, latest and struct.unpack('<d', before, old) + latest or due)
    new = (uniqueness_of(before) + (is_apart(new) and 3 or 0)) .. 'o' .. sub(new, 3, times - 1)
      .. sub(before, old, old + 7) .. struct.pack('<d', due) .. sub(new, times + 16)
    new = with_uid_of(before, with_group_of(before, new))
    call('HSET', JOBS, id, new)
    if is_apart(new) then
      call('HSET', PAYLOADS, id, ARGV[at + 4])
    elseif is_apart(before) then
      call('HDEL', PAYLOADS, id)
    end
    if life then
      known.at = string.format('%.6f', due)
      known.nodl = nil
      call('HSET', LIFE, id, cjson.encode(known))
    end
    move(id, new, before, due, line)
  elseif known.s == RETRYING and due < due_of(before, known) then
    known.at = ARGV[at + 2]
    call('HSET', LIFE, id, cjson.encode(known))
    move(id, before, before, due, line)
  end
end

local reply = { 'added', string.format('%.0f', base) }
local ids = {}
for _, place in ipairs(holders) do
  local holder = taken[place]
  if type(holder) == 'number' then holder = string.format('%.0f', base - (holder + 1) * step) end
  taken[place] = holder
  if entry ~= '' and names[place] then grow_by(growth, names[place], VOID, 1) end
  meet(place, holder)
  reply[#reply + 1] = place
  reply[#reply + 1] = holder
end
if token ~= '' then
  for place = 0, count - 1 do
    ids[#ids + 1] = taken[place] and taken[place] .. '!' or string.format('%.0f', base + place * step)
  end
  call('SET', LAST, token .. table.concat(ids, ' '), 'PX', 300000)
end
local told = write_growth(growth, ENDS, TELL, now)
if call_one then wake(IDLE, channel, queue, tries) end
if entry ~= '' then return { 'sent', told } end
return reply
