-- Of the names that were told of last, step by step: those that are no more.
-- KEYS: 1 what was told last    ARGV: 1 where to go on  2 about how many to look at
-- Returns where to go on after this step, `0` at the end, and the names.

local step = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local gone = {}
for i = 1, #step[2], 2 do -- a name, its digest
  if redis.call('EXISTS', step[2][i]) == 0 then
    gone[#gone + 1] = step[2][i]
  end
end
return {step[1], gone}
