-- Takes a lease that nobody has, or whose holder is gone: a node that dies lets go of its pub/sub connection at once,
-- long before its lease ends. Only a node whose own pub/sub connection is up may have it, else the next would take it.
-- KEYS: 1 lease  2 mark    ARGV: 1 token, `<node>/<nonce>`  2 milliseconds  3 prefix of the nodes' own channels

local function connected(token)
  return redis.call('PUBSUB', 'NUMSUB', ARGV[3] .. string.match(token, '^[^/]*'))[2] > 0
end

local holder = redis.call('GET', KEYS[1])
if (holder and holder ~= ARGV[1] and connected(holder)) or not connected(ARGV[1]) then
  return {0, false}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, redis.call('GET', KEYS[2])}
