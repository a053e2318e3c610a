-- Forget batches of which no job is left.
-- keys: ids jobs
-- arguments: members of ids
-- result: how many were forgotten
-- complexity: O(1) a job; batches of at most 500 jobs in all

local gone = {}
for _, member in ipairs(ARGV) do
  local first, count, step = string.match(member, '^(%d+):(%d+):(%d+)$')
  local left = false
  for number = 0, math.min(tonumber(count) or 0, 500) - 1 do
    if call('HEXISTS', JOBS, string.format('%.0f', tonumber(first) + number * tonumber(step))) == 1 then
      left = true
      break
    end
  end
  if count and not left then gone[#gone + 1] = member end
end
if #gone > 0 then call('ZREM', IDS, unpack(gone)) end
return #gone
