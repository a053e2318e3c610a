-- Count the kinds of the jobs that wait.
-- keys: ready wait retry lines jobs
-- takes: place start most
-- arguments: which of the first four (1 2 3 4), how many of its jobs to step over, how many to look at
-- result: {how many were looked at, a kind and how many are of it, the next kind and so on}
-- complexity: O(log of the queue), and O(1) a job

place, start = tonumber(place), tonumber(start)
local members = call('ZRANGE', KEYS[place], start, start + tonumber(most) - 1)
local numbers, kinds, answer = {}, {}, { #members }
for at, member in ipairs(members) do
  if place == 4 then members[at] = id_in_line(member) elseif place > 1 then members[at] = sub(member, 4) end
end
if #members > 0 then
  for _, record in ipairs(call('HMGET', JOBS, unpack(members))) do
    record = sound(record)
    if record then
      local kind = kind_of(record)
      if not numbers[kind] then kinds[#kinds + 1] = kind end
      numbers[kind] = (numbers[kind] or 0) + 1
    end
  end
end
for _, kind in ipairs(kinds) do
  answer[#answer + 1] = kind
  answer[#answer + 1] = numbers[kind]
end
return answer
