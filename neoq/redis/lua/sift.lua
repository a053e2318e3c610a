-- Leave out the jobs whose records show that they are not those that are looked for.
-- keys: jobs life
-- takes: kind any_kind statuses key in_life
-- arguments: the kind, 1 if any is wanted; the numbers of the statuses that are wanted ("" for any); the key ("" for
--   any), and what is in the life ("" for nothing); ids
-- result: the ids of the jobs that may be wanted; one whose record cannot be read may be
-- complexity: O(1) a job; at most 500 jobs

local records = call('HMGET', JOBS, unpack(ARGV, FIRST))
local lives = (statuses ~= '' or in_life ~= '') and call('HMGET', LIFE, unpack(ARGV, FIRST))
local function status_is_wanted(life)
  if statuses == '' then return true end
  local fine, read = pcall(cjson.decode, life or '{}')
  local status = fine and type(read) == 'table' and count_in(read.s, CANCELLED) or PENDING
  return string.find(statuses, string.format('%d', status), 1, true)
end

local likely = {}
for at, record in ipairs(records) do
  record = sound(record)
  local wanted = record and (any_kind == '1' or kind_of(record) == kind) and (key == '' or key_of(record) == key)
  if wanted or record == NO_RECORD then
    local life = lives and lives[at]
    local has = in_life == '' or life and string.find(life, in_life, 1, true)
    if not lives or has and status_is_wanted(life) then
      likely[#likely + 1] = ARGV[FIRST + at - 1]
    end
  end
end
return likely
