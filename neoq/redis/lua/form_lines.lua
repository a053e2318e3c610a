-- Put ready jobs in the lines of their keys: those from before the queue had limits, in their order.
-- keys: ready lines busy turn limits pace paced tats jobs life
-- takes: most
-- arguments: how many to look at
-- result: 1 if more are left
-- complexity: O(log of the queue) a job; at most 100 jobs

local limits = limits_of()
if not (limits.form and limits.by_key) then return 0 end
form(limits, tonumber(most), clock())
return limits.form and 1 or 0
