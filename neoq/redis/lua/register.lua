-- Give a queue its number: that which it had, that which a process knows it by, or the next one.
-- keys: queues numbers
-- takes: queue known layout
-- arguments: the queue, the number that a process knows it by ("" for none), and how jobs are written down, which a
--   process of another neoq looks at as it begins
-- result: its number
-- complexity: O(1); O(queues) where numbers were lost

local function number_in(text)
  local number = tonumber(text or nil)
  return number and number >= 0 and number < 1000000000 and number % 1 == 0 and number or nil
end

local function given()
  local highest, seen = -1, {}
  for _, text in ipairs(call('HVALS', QUEUES)) do
    local number = number_in(text)
    if number then
      seen[number] = true
      highest = math.max(highest, number)
    end
  end
  return highest + 1, seen
end

local number = number_in(call('HGET', QUEUES, queue))
if number then return number end
number = number_in(known)
local next = number_in(call('GET', NUMBERS))
if number or not next then
  local free, seen = given()
  next = math.max(next or 0, free)
  if number and seen[number] then number = nil end
end
number = number or next
call('HSET', QUEUES, queue, number, '', layout)
call('SET', NUMBERS, math.max(next, number + 1))
return number
