-- Cancel some jobs of a stopped group that wait, and ask those that run to stop.
-- keys: members jobs life uniq ready wait retry held cancelled_jobs crashed cancel ends tell groups halts steps spent
-- keys: lines busy turn limits pace paced tats
-- takes: name after
-- arguments: the name of the group, the last member of the page before ("" for none)
-- result: {last member ("" at the end), totals of the group here, ids that run, names of groups to stop}
-- complexity: O(log of the queue) a job; 50 jobs

local micros = clock()
local now = micros / 1000000
local growth, running, halted = {}, {}, {}
local first = after == '' and '[' .. name or '(' .. after
local page = call('ZRANGEBYLEX', MEMBERS, first, '(' .. name .. ':', 'LIMIT', 0, 50)
local keys = {
  ready = READY, held = HELD, wait = WAIT, retry = RETRY, crashed = CRASHED, steps = STEPS, uniq = UNIQ,
  cancelled = CANCELLED_JOBS, life = LIFE,
}
for _, member in ipairs(page) do
  local id = id_of_member(member)
  local record = sound(call('HGET', JOBS, id))
  local life = record and life_of(call('HGET', LIFE, id))
  if record and life.s < SUCCEEDED then
    if is_running(READY, WAIT, RETRY, id, record, life) then
      call('SADD', CANCEL, id)
      running[#running + 1] = id
    else
      local key = key_of(record)
      if key ~= '' then call('ZREM', LINES, line_member(key, record, life, id)) end
      cancel_waiting(id, record, life, now, keys)
      if key ~= '' then leave(id, micros) end
      grow(growth, record, GONE)
      halt(GROUPS, HALTS, id, life, halted)
    end
  end
end
write_growth(growth, ENDS, TELL, now)
local last = #page == 50 and page[50] or ''
return { last, call('HGET', ENDS, name) or '', running, halted }
