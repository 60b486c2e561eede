-- Of each channel its epoch, and its newest offset.
-- KEYS: each one's log and meta

local places = {}
for i = 1, #KEYS, 2 do
  places[i], places[i + 1] = stand(KEYS[i], KEYS[i + 1], ARGV[1] .. '-' .. i)
end
return places
