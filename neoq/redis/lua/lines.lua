-- Look at the lines of a queue in which a job waits.
-- keys: lines
-- takes: after most
-- arguments: the start of the first line's members ("" for the first of all), how many lines at most
-- result: the start of the members of the next line ("" where there is none), then key and length of each line
-- complexity: O(log of the queue) a line; at most 50 lines

local reply, from = { '' }, after == '' and '-' or '[' .. after
for _ = 1, tonumber(most) do
  local member = call('ZRANGEBYLEX', LINES, from, '+', 'LIMIT', 0, 1)[1]
  if not member then return reply end
  local length = tonumber(sub(member, 1, 4)) or 0
  local start = sub(member, 1, 4 + length)
  from = '[' .. start .. '\1'
  reply[#reply + 1] = sub(member, 5, 4 + length)
  reply[#reply + 1] = call('ZLEXCOUNT', LINES, '[' .. start .. '\0', '(' .. start .. '\1')
end
reply[1] = sub(from, 2)
return reply
