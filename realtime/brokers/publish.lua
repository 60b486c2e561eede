-- Appends what is newer than the channel's last version, and tells the nodes: all or nothing, in one step.
-- KEYS: 1 the channel's log  2 its meta  3 the lease of its store
-- ARGV: 3 entries to keep  4 seconds to keep them  5 the publisher  then for each change: its version, its opening

-- Nobody else's word counts, also where there is no holder: one that was frozen until after its lease, while the
-- version that would have kept it out was forgotten, would else keep out what comes after it.
local holder = redis.call('GET', KEYS[3])
if not holder or string.match(holder, '^[^/]*') ~= ARGV[5] then
  return -1
end

local function above(a, b) -- by bytes: Lua's own comparison follows the server's locale
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x > y
    end
  end
  return #a > #b
end

local epoch, offset, version = stand(KEYS[1], KEYS[2], ARGV[1])
local events = {}
for i = 6, #ARGV, 2 do
  if above(ARGV[i], version) then
    version, offset = ARGV[i], offset + 1
    local place = string.format('v1.%s.%d"}', epoch, offset)
    events[#events + 1] = ARGV[i + 1] .. place
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], string.format('%d-0', offset), 'event', events[#events])
  end
end

if #events > 0 then
  redis.call('HSET', KEYS[2], 'offset', offset, 'version', version)
  keep_alive(KEYS[1], tonumber(ARGV[4]))
  redis.call('PUBLISH', KEYS[1], table.concat(events, '\n'))
end
return #events
