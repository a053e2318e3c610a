-- Say which groups keep their jobs: those whose holders have neither succeeded nor been cancelled.
-- keys: groups halts jobs life
-- arguments: names of groups, and their holders
-- result: names of the others
-- complexity: O(1) a group

local gone = {}
for at = 1, #ARGV, 2 do
  local life = call('HEXISTS', JOBS, ARGV[at + 1]) == 1 and life_of(call('HGET', LIFE, ARGV[at + 1]))
  local over = not life or life.s == SUCCEEDED or life.s == CANCELLED
  if over and call('SISMEMBER', HALTS, ARGV[at]) == 0 then gone[#gone + 1] = ARGV[at] end
end
return gone
