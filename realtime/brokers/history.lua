-- The channel's epoch, its newest offset, and its entries after a place in that epoch.
-- ARGV: 3 the place's epoch  4 the place's offset

local entries = {}
if ARGV[3] == epoch then
  entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[4] .. '-0', '+')
end
return {epoch, offset, entries}
