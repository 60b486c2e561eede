-- Tells of those items that are not what was told of them last; returns how many.
-- KEYS: 4… their names    ARGV: 3 what made us look  4… collection and key of each

local found = 0
for i = 4, #KEYS do
  local kind, raw = read(KEYS[i])
  if digest(kind, raw) ~= (redis.call('HGET', KEYS[2], KEYS[i]) or '') then
    tell(KEYS[i], ARGV[2 * i - 4], ARGV[2 * i - 3], kind, raw, ARGV[3])
    found = found + 1
  end
end
return found
