-- The fence, and key, kind and raw value of the items of a collection that come after a key, at most as many as asked.
-- ARGV: 3 collection  4 what its names begin with  5 the key, or nothing  6 how many

local answer = {fence()}
local after = ARGV[5] == '' and '-' or '(' .. ARGV[5]
for _, key in ipairs(redis.call('ZRANGEBYLEX', ARGV[1] .. ARGV[3], after, '+', 'LIMIT', 0, ARGV[6])) do
  local kind, raw = read(ARGV[4] .. key)
  answer[#answer + 1] = key
  answer[#answer + 1] = kind
  answer[#answer + 1] = raw
end
return answer
