-- Let a group's home know what the totals of queues have become, or seal it; release the holder with the last end.
-- keys: groups halts jobs life held ready wait idle
-- takes: name holder round producer channel queue tries
-- arguments: the name of the group, its holder and round, the producer that seals it ("" to seal nothing), the
--   prefix of the workers' channels, the home, how many workers to wake; then queues, and what is told of each
-- result: {"open", 1 if it is stopped, 1 if that was decided now, 1 if it is complete}, {"gone"}, or {"closed"} for another producer
-- complexity: O(queues of the group), O(log of the home)

local state = group_in(call('HGET', GROUPS, name))
if not state then return { 'gone' } end
if producer ~= '' then
  if state.p ~= producer then return { 'closed' } end
  state.sealed = true
end
if state.done then return { 'open', state.stopped and 1 or 0, 0, 1 } end
local now = clock() / 1000000
for at = FIRST, #ARGV, 2 do
  local seen, told = totals_in(state.q[ARGV[at]]), totals_in(ARGV[at + 1])
  for place = 1, TOTALS do seen[place] = math.max(seen[place], told[place]) end
  state.q[ARGV[at]] = text_of(seen)
end
local sums = sums_of(state)
local stops = state.stops and sums[FAILED] > sums[REVIVED] and not state.stopped
if stops then
  state.stopped = true
  call('SADD', HALTS, name)
end
if is_complete(state, sums) then
  state.done = true
  local record = sound(call('HGET', JOBS, holder))
  local life = record and life_of(call('HGET', LIFE, holder))
  local held = record and life.s < SUCCEEDED and is_held(HELD, holder, now)
  if held and life.h ~= 'signal' and life.r == tonumber(round) then
    call('ZREM', HELD, holder)
    call('ZREM', WAIT, unpack(waiting_of(record, holder)))
    local due = life.h == 'batch' and math.max(now, due_of(record, life)) or now
    life.h = nil
    life.at = string.format('%.6f', due)
    call('HSET', LIFE, holder, cjson.encode(life))
    if due > now then
      call('ZADD', WAIT, due, waiting(record, holder))
    else
      call('ZADD', READY, score_of(rank_of(record), due), holder)
    end
    wake(IDLE, channel, queue, tries)
  end
end
call('HSET', GROUPS, name, cjson.encode(state))
return { 'open', state.stopped and 1 or 0, stops and 1 or 0, state.done and 1 or 0 }
