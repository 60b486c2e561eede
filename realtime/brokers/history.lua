-- The channel's epoch, its newest offset, and its entries after a place in that epoch.
-- KEYS: 1 its log  2 its meta    ARGV: 3 the place's epoch  4 the place's offset

local epoch, offset = stand(KEYS[1], KEYS[2], ARGV[1])
local entries = {}
if ARGV[3] == epoch then
  entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[4] .. '-0', '+')
end
return {epoch, offset, entries}
