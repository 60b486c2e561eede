-- Tells of those items that are not what was told of them last.
-- KEYS: 4… their names    ARGV: 3… collection and key of each

for i = 4, #KEYS do
  local kind, raw = read(KEYS[i])
  if digest(kind, raw) ~= (redis.call('HGET', KEYS[2], KEYS[i]) or '') then
    tell(KEYS[i], ARGV[2 * i - 5], ARGV[2 * i - 4], kind, raw)
  end
end
