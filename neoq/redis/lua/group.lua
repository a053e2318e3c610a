-- What is counted for a group: jobs sent, ends, ends taken back, and jobs sent that were not added after all.
local SENT, WELL, FAILED, GONE, REVIVED, VOID, TOTALS = 1, 2, 3, 4, 5, 6, 6

-- The name of the group that a job belongs to, without the place in it; nil for none.
local function name_of(record)
  local group = group_of(record)
  return group ~= '' and string.match(group, '^[1-9]%d*/%d+/') or nil
end

local function member_of(name, id)
  return name .. string.rep('0', 19 - #id) .. id
end

local function id_of_member(member)
  return string.match(member, '/0*([1-9]%d*)$') or '0'
end

local function totals_in(text)
  local totals = {}
  for number in string.gmatch(type(text) == 'string' and text or '', '%d+') do
    totals[#totals + 1] = math.min(tonumber(number), 9007199254740991)
  end
  for place = #totals + 1, TOTALS do totals[place] = 0 end
  return totals
end

local function text_of(totals)
  return string.format('%.0f %.0f %.0f %.0f %.0f %.0f', unpack(totals, 1, TOTALS))
end

-- Let what is counted for a group grow; `write_growth` writes it.
local function grow_by(growth, name, place, number)
  local more = growth[name]
  if not more then
    more = totals_in('')
    growth[name] = more
  end
  more[place] = more[place] + number
end

local function grow(growth, record, place)
  local name = name_of(record)
  if name then grow_by(growth, name, place, 1) end
end

-- Ends of a group that this queue knows no more are not counted. Returns names and their totals.
local function write_growth(growth, ends, tell, now)
  local told = {}
  for name, more in pairs(growth) do
    local before = call('HGET', ends, name)
    if before or more[SENT] > 0 or more[VOID] > 0 or more.new then
      local totals = totals_in(before)
      for place = 1, TOTALS do totals[place] = totals[place] + more[place] end
      local text = text_of(totals)
      call('HSET', ends, name, text)
      call('ZADD', tell, 'NX', now, name)
      told[#told + 1] = name
      told[#told + 1] = text
    end
  end
  return told
end

-- A group as its home has it; nil where there is none, or something else.
local function group_in(text)
  local fine, state = pcall(cjson.decode, text or '')
  if not fine or type(state) ~= 'table' or type(state.q) ~= 'table' then return nil end
  return state
end

-- What a queue is to know of the producer of a batch.
local function opener_of(state)
  return string.format('%09d:', count_in(state.turn, 999999999)) .. tostring(state.p)
end

local function sums_of(state)
  local sums = totals_in('')
  for _, text in pairs(state.q) do
    local totals = totals_in(text)
    for place = 1, TOTALS do sums[place] = sums[place] + totals[place] end
  end
  return sums
end

local function is_complete(state, sums)
  if not state.sealed or state.successes and sums[FAILED] > sums[REVIVED] then return false end
  return sums[SENT] - sums[VOID] == sums[WELL] + sums[FAILED] + sums[GONE] - sums[REVIVED]
end

local function names_of_holder(id, life)
  local names = {}
  for round = 0, life.r do names[round + 1] = string.format('%s/%d/', id, round) end
  return names
end

-- Stop the groups of a holder that has ended which are not complete; their names are added to a list.
local function halt(groups, halts, id, life, names)
  if not life.r then return end
  for _, name in ipairs(names_of_holder(id, life)) do
    local state = group_in(call('HGET', groups, name))
    if state and not state.done and not state.stopped then
      state.stopped = true
      call('HSET', groups, name, cjson.encode(state))
      call('SADD', halts, name)
      names[#names + 1] = name
    end
  end
end

-- Forget the groups of a holder that is forgotten, except while they are being stopped.
local function forget_holder(groups, halts, id, life)
  if not life.r then return end
  for _, name in ipairs(names_of_holder(id, life)) do
    if call('SISMEMBER', halts, name) == 0 then call('HDEL', groups, name) end
  end
end

-- Cancel a job of a stopped group that waits.
local function cancel_waiting(id, record, life, now, keys)
  local members = waiting_of(record, id)
  call('ZREM', keys.ready, id)
  call('ZREM', keys.held, id)
  call('ZREM', keys.wait, unpack(members))
  call('ZREM', keys.retry, unpack(members))
  call('SREM', keys.crashed, id)
  drop_steps(keys.steps, id)
  local fingerprint = fingerprint_of(record)
  local free = uniqueness_of(record) ~= 0 and not is_spent(SPENT, fingerprint, now)
  if free and call('HGET', keys.uniq, fingerprint) == id then
    call('HDEL', keys.uniq, fingerprint)
  end
  life.s = CANCELLED
  life.fin = string.format('%.6f', now)
  call('ZADD', keys.cancelled, now, id)
  call('HSET', keys.life, id, cjson.encode(life))
end
