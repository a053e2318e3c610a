-- Record how attempts ended, each only under its current lease.
-- keys: lease jobs life uniq dead_jobs cancelled_jobs ready wait retry progress cancel crashed idle results
-- keys: steps held done_jobs payloads ids out ends tell groups halts members
-- keys: spent
-- keys: lines busy turn limits pace paced tats
-- takes: again keep channel queue tries
-- arguments: 1 if this repeats a call whose reply was lost, 1 to keep succeeded jobs for a while, the prefix of
--   the workers' channels, the queue, how many workers to call; then for each job: id, lease, what changes in
--   its life as JSON, with the number of its packs and of its steps and what it waits for, how many jobs of which groups follow, result,
--   its packs, each of which has jobs that follow, and name and value of each step
-- result: {ids of the stale ones, ids of those whose packs were not taken, names of groups and their totals,
--   names of groups that are to be stopped}
-- complexity: O(log of the queue) a job; at most 50 jobs, and O(1) a pack
-- A job that has succeeded, and whose end concerns nothing else, is a matter of finish.lua.

again = again == '1'
local micros = clock()
local now = micros / 1000000
local stale, alone, call_one = {}, {}, false
local growth, halted = {}, {}

-- Write the jobs that follow into the outbox, from where they are delivered once.
local function send(lease, first, packs)
  local entry = string.match(lease, '^%d+:%d+')
  for number = 1, packs do
    call('HSET', OUT, entry .. ':' .. number, string.format('%.6f ', now) .. ARGV[first + number - 1])
  end
end

local function limits_for(record)
  return key_of(record) == '' and {} or limits_of()
end

local function give_up_turn(id)
  if leave(id, micros) > 0 then call_one = true end
end

-- Whether the job is kept.
local function finish(id, record, status, life)
  if status ~= DEAD then drop_steps(STEPS, id) end
  if uniqueness_of(record) == 1 and not is_spent(SPENT, fingerprint_of(record), now) then
    call('HDEL', UNIQ, fingerprint_of(record))
  end
  call('SREM', CRASHED, id)
  if key_of(record) ~= '' and not (status == DEAD and keeps_turn(DEAD)) then give_up_turn(id) end
  halt(GROUPS, HALTS, id, life, halted)
  local name = name_of(record)
  if name then grow_by(growth, name, ({ [SUCCEEDED] = WELL, [DEAD] = FAILED, [CANCELLED] = GONE })[status], 1) end
  if status == SUCCEEDED and keep ~= '1' and not (name and call('HEXISTS', ENDS, name) == 1) then
    if name then call('ZREM', MEMBERS, member_of(name, id)) end
    forget_holder(GROUPS, HALTS, id, life)
    for _, key in ipairs({ JOBS, LIFE, PAYLOADS }) do call('HDEL', key, id) end
    call('ZREM', IDS, id)
    return false
  end
  call('ZADD', ({ [SUCCEEDED] = DONE_JOBS, [DEAD] = DEAD_JOBS, [CANCELLED] = CANCELLED_JOBS })[status], now, id)
  return true
end

local function hold(id, life, due, why)
  life.h = why
  if due < math.huge then life.at = string.format('%.6f', due) end
  call('ZADD', HELD, due, id)
  return due
end

-- When a job that waits for all jobs of a round is due; ``to`` has how many of them go to which queues.
local function due_after(id, record, life, timeout, round, to)
  local name, sent = string.format('%s/%d/', id, round), 0
  local state = { sealed = true, q = { [queue] = '' } }
  for other, number in pairs(to) do
    sent = sent + number
    state.q[other] = ''
  end
  state.q[queue] = text_of({ sent, 0, 0, 0, 0, 0 })
  state.done = sent == 0
  life.r = round
  call('HSET', GROUPS, name, cjson.encode(state))
  local due = timeout_of(record, life, timeout)
  if state.done then
    life.at = string.format('%.6f', now)
    return now
  end
  return due > now and hold(id, life, due, 'children') or due
end

-- When a job that waits for a signal is due.
local function due_with(id, record, life, timeout, awaits)
  local due = timeout_of(record, life, timeout)
  if call('HEXISTS', STEPS, id .. ':' .. awaits) == 1 then
    life.at = string.format('%.6f', now)
    return now
  elseif due > now then
    life.aw = awaits
    return hold(id, life, due, 'signal')
  end
  return due
end

local function go_on(id, record, status, life, due)
  if due <= now then
    come(limits_for(record), id, record, life, score_of(rank_of(record), due), micros)
  else
    if key_of(record) ~= '' and not keeps_turn(status) then give_up_turn(id) end
    call('ZADD', status == RETRYING and RETRY or WAIT, due, waiting(record, id))
  end
  call_one = true
end

local function settle(id, lease, change, result, first)
  local record = sound(call('HGET', JOBS, id))
  local life = record and life_of(call('HGET', LIFE, id))
  if not record or call('ZREM', LEASE, lease) == 0 then
    if not again or record and life.t ~= lease then stale[#stale + 1] = id end
    return
  end
  local charged, status, timeout, awaits = change.charged, change.s, change.at, change.awaits
  local packs, steps = change.packs or 0, change.steps or 0
  local holds, sent, to = change.holds, change.sent or {}, change.to or {}
  local of_steps = first + packs
  for _, name in ipairs({ 'charged', 'awaits', 'packs', 'steps', 'holds', 'sent', 'to' }) do change[name] = nil end
  life.h, life.aw = nil, nil
  for name, value in pairs(change) do life[name] = value end
  if charged then life.n = life.n + 1 end
  if status < SUCCEEDED and call('SISMEMBER', CANCEL, id) == 1 then
    status = CANCELLED -- cancelled as it ran: it is not tried again
    life.fin = string.format('%.6f', now)
    if packs > 0 then alone[#alone + 1] = id end
    packs, sent = 0, {}
  end
  life.s = status
  life.t = lease
  call('SREM', CANCEL, id)
  call('HDEL', PROGRESS, id)
  if steps > 0 and (status < SUCCEEDED or status == DEAD) then
    write_steps(STEPS, id, now, of_steps, steps)
  end
  local kept = true
  if status >= SUCCEEDED then
    kept = finish(id, record, status, life)
  elseif holds then
    go_on(id, record, status, life, due_after(id, record, life, timeout, holds, to))
  elseif awaits then
    go_on(id, record, status, life, due_with(id, record, life, timeout, awaits))
  else
    go_on(id, record, status, life, due_of(record, life))
  end
  for name, number in pairs(sent) do grow_by(growth, name, SENT, number) end
  send(lease, first, packs)
  if not kept then return end
  if result ~= '' then call('HSET', RESULTS, id, result) end
  call('HSET', LIFE, id, cjson.encode(life))
end

local at = FIRST
while at <= #ARGV do
  local change = cjson.decode(ARGV[at + 2])
  local more = (change.packs or 0) + 2 * (change.steps or 0)
  settle(ARGV[at], ARGV[at + 1], change, ARGV[at + 3], at + 4)
  at = at + 4 + more
end
if not call_one then call_one = call('HEXISTS', LIMITS, 'max_running') == 1 and call('EXISTS', READY) == 1 end
if call_one then wake(IDLE, channel, queue, tries) end
local told = write_growth(growth, ENDS, TELL, now)
return { stale, alone, told, halted }
