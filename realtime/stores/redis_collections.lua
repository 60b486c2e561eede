-- The collections that have items, each with how many.

local answer = {}
for _, collection in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  answer[#answer + 1] = collection
  answer[#answer + 1] = redis.call('ZCARD', ARGV[1] .. collection)
end
return answer
