-- Appends what is newer than the channel's last version, and tells the nodes: all or nothing, in one step.
-- KEYS: 1 the channel's log  2 its meta  3 the lease of its store
-- ARGV: 3 entries to keep  4 seconds to keep them  5 the publisher  then for each change: its version, its opening

-- Nobody else's word counts, also where there is no holder: one that was frozen until after its lease, while the
-- version that would have kept it out was forgotten, would else keep out what comes after it.
local holder = redis.call('GET', KEYS[3])
if not holder or string.match(holder, '^[^/]*') ~= ARGV[5] then
  return -1
end

-- By bytes, as Lua's own comparison follows the server's locale. Eight in a step, since this is done for each change.
local function above(a, b)
  for i = 1, math.min(#a, #b), 8 do
    local a1, a2, a3, a4, a5, a6, a7, a8 = string.byte(a, i, i + 7)
    local b1, b2, b3, b4, b5, b6, b7, b8 = string.byte(b, i, i + 7)
    if a1 ~= b1 then return a1 > b1 end
    if a2 ~= b2 then return (a2 or -1) > (b2 or -1) end -- one of them may have ended
    if a3 ~= b3 then return (a3 or -1) > (b3 or -1) end
    if a4 ~= b4 then return (a4 or -1) > (b4 or -1) end
    if a5 ~= b5 then return (a5 or -1) > (b5 or -1) end
    if a6 ~= b6 then return (a6 or -1) > (b6 or -1) end
    if a7 ~= b7 then return (a7 or -1) > (b7 or -1) end
    if a8 ~= b8 then return (a8 or -1) > (b8 or -1) end
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
