-- Takes a lease that nobody has, or whose holder is gone: a node that dies lets go of its pub/sub connection at once,
-- long before its lease ends. Only a node whose own pub/sub connection is up may have it, else the next would take it.
-- An older lease of the node's own is over: it holds one at a time.
-- KEYS: 1 lease  2 mark    ARGV: 1 token, `<node>/<nonce>`  2 milliseconds  3 prefix of the nodes' own channels
-- Returns whether it took it, the token that was there, the milliseconds that one had left, and the mark.

local function node(token)
  return string.match(token, '^[^/]*')
end

local function connected(name)
  return redis.call('PUBSUB', 'NUMSUB', ARGV[3] .. name)[2] > 0
end

local me, holder, left = node(ARGV[1]), redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
local other = holder and node(holder) ~= me
if (other and connected(node(holder))) or not connected(me) then
  return {0, holder, left, false}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, holder, left, redis.call('GET', KEYS[2])}
