-- Leave out the jobs whose records show that they are not those that are looked for.
-- keys: jobs life
-- takes: kind any_kind statuses in_record in_life
-- arguments: the kind, 1 if any is wanted; the numbers of the statuses that are wanted ("" for any); what is
--   in the record, and in the life ("" for nothing); ids
-- result: the ids of the jobs that may be wanted; one whose record cannot be read may be
-- complexity: O(1) a job; at most 500 jobs

local records = call('HMGET', JOBS, unpack(ARGV, FIRST))
local lives = (statuses ~= '' or in_life ~= '') and call('HMGET', LIFE, unpack(ARGV, FIRST))
local function has(text, part)
  return part == '' or text and string.find(text, part, 1, true)
end
local function status_is_wanted(life)
  if statuses == '' then return true end
  local fine, read = pcall(cjson.decode, life or '{}')
  local status = fine and type(read) == 'table' and count_in(read.s, CANCELLED) or PENDING
  return string.find(statuses, string.format('%d', status), 1, true)
end

local likely = {}
for at, record in ipairs(records) do
  record = sound(record)
  if record and (record == NO_RECORD or (any_kind == '1' or kind_of(record) == kind) and has(record, in_record)) then
    if not lives or has(lives[at], in_life) and status_is_wanted(lives[at]) then
      likely[#likely + 1] = ARGV[FIRST + at - 1]
    end
  end
end
return likely
