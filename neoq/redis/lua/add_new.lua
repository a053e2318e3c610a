-- Add jobs to a queue, all or none, where no unfinished one has a fingerprint of theirs.
-- keys: ids jobs ready wait uniq seq idle last payloads life gate queues spent
-- keys: members ends tell opener stopped
-- takes: token channel queue tries count unique ready waits apart base gated step group opened
-- arguments: token ("" for none), the prefix of the workers' channels, the queue, how many workers to try,
--   number of jobs, of unique ones, of ready ones, of those that wait, of payloads kept apart, first id, 1 if
--   gate.lua looks at the fingerprints, step between ids, the name of the batch without a name that all of
--   them are members of ("" for none) and what is known of its producer; then the fingerprints, if gate.lua
--   does not look at them; id and record of each; fingerprint and id of the unique ones; score and id of the
--   ready ones; run_after and rank with id of those that wait; id and payload of those kept apart
-- result: {"added", first id}, {"held", id} for one job that is a duplicate, {"again", ids} where this token
--   was seen before, {"shut"} where the gate is, {"unknown"} where the queue has no number, {"closed"} where
--   the batch is, or {"taken"}: then nothing was done, and add.lua is to decide
-- complexity: O(log of the queue) a job; at most 50 jobs, which come as the commands take them

local first_id, id_step = base, step -- as texts
count, unique, ready, waits, apart =
  tonumber(count), tonumber(unique), tonumber(ready), tonumber(waits), tonumber(apart)
base, step, gated = tonumber(base), tonumber(step), gated == '1'
local at = FIRST -- of the next arguments

if call('HEXISTS', QUEUES, queue) == 0 then return { 'unknown' } end

-- What is remembered of this call, before it is known that nothing has to be undone: one command is cheaper.
if token ~= '' then
  local last = call('SET', LAST, token .. first_id .. ':' .. count .. ':' .. id_step, 'PX', 300000, 'GET')
  if last and sub(last, 1, #token) == token then
    call('SET', LAST, last, 'PX', 300000)
    return { 'again', sub(last, #token + 1) }
  end
end

if gated and call('GET', GATE) ~= token then
  call('DEL', LAST)
  return { 'shut' }
end
if group ~= '' then
  local opener = call('HGET', OPENER, group)
  if opener and opener ~= opened or call('ZSCORE', STOPPED, group) then
    if token ~= '' then call('DEL', LAST) end
    return { 'closed' }
  end
  if not opener then call('HSET', OPENER, group, opened) end
end
if not gated and unique > 0 then
  local found = call('HMGET', UNIQ, unpack(ARGV, at, at + unique - 1))
  for place = 1, unique do
    local holder = found[place]
    if holder and (is_unfinished(JOBS, LIFE, holder) or is_spent(SPENT, ARGV[at + place - 1], clock() / 1000000)) then
      if token ~= '' then call('DEL', LAST) end
      if count > 1 then return { 'taken' } end
      if life_of(call('HGET', LIFE, found[place])).s == RETRYING then return { 'taken' } end
      return { 'held', found[place] }
    end
  end
  at = at + unique
end

local newest = newest_of(call('SET', SEQ, string.format('%.0f', base + (count - 1) * step), 'GET'))
local args = ARGV
if newest >= base then -- the sender's clock is behind another's: number the jobs anew, in their order
  base = next_id(newest, base, step)
  args = {}
  for place = 1, #ARGV do args[place] = ARGV[place] end
  local ids = {}
  for number = 0, count - 1 do
    local place = at + 2 * number
    local id = string.format('%.0f', base + number * step)
    ids[ARGV[place]] = id
    args[place] = id
  end
  local place = at + 2 * count + 1
  for _ = 1, unique + ready do
    args[place] = ids[ARGV[place]]
    place = place + 2
  end
  for _ = 1, waits do
    args[place] = sub(ARGV[place], 1, 3) .. ids[sub(ARGV[place], 4)]
    place = place + 2
  end
  place = place - 1
  for _ = 1, apart do
    args[place] = ids[ARGV[place]]
    place = place + 2
  end
  call('SET', SEQ, string.format('%.0f', base + (count - 1) * step))
  if token ~= '' then call('SET', LAST, token .. string.format('%.0f:%d:%d', base, count, step), 'PX', 300000) end
end
local first = string.format('%.0f', base)

call('HSET', JOBS, unpack(args, at, at + 2 * count - 1))
if group ~= '' then
  local members, growth = {}, {}
  local start = sub(member_of(group, first), 1, -1 - #first) -- of members whose ids are as long as the first one
  for place = 0, count - 1 do
    local id = args[at + 2 * place]
    members[2 * place + 1], members[2 * place + 2] = '0', #id == #first and start .. id or member_of(group, id)
  end
  call('ZADD', MEMBERS, unpack(members))
  grow_by(growth, group, SENT, count)
  write_growth(growth, ENDS, TELL, clock() / 1000000)
end
at = at + 2 * count
call('ZADD', IDS, first, count == 1 and first or first .. ':' .. count .. ':' .. step)
if unique > 0 then
  call('HSET', UNIQ, unpack(args, at, at + 2 * unique - 1))
  at = at + 2 * unique
end
local call_one = ready > 0
if ready > 0 then
  call('ZADD', READY, unpack(args, at, at + 2 * ready - 1))
  at = at + 2 * ready
end
if waits > 0 then
  local head = call('ZRANGE', WAIT, 0, 0)[1]
  call('ZADD', WAIT, unpack(args, at, at + 2 * waits - 1))
  call_one = call_one or call('ZRANGE', WAIT, 0, 0)[1] ~= head
  at = at + 2 * waits
end
if apart > 0 then call('HSET', PAYLOADS, unpack(args, at, at + 2 * apart - 1)) end

if call_one then wake(IDLE, channel, queue, tries) end
return { 'added', first }
