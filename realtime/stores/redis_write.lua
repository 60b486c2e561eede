-- Writes one item and tells of it, if it is still what the writer saw.
-- KEYS: 4 its name    ARGV: 3 collection  4 key  5 digest of what was seen, or `*`  6 `put` or `delete`  7 the value

local kind, raw = read(KEYS[4])
if ARGV[5] ~= '*' and digest(kind, raw) ~= ARGV[5] then
  return {'changed', ''}
end
if ARGV[6] == 'delete' then
  if kind == 'none' then
    return {'missing', ''}
  end
  redis.call('DEL', KEYS[4])
  return {'done', tell(KEYS[4], ARGV[3], ARGV[4], 'none', '')}
end
local found = redis.call('TYPE', KEYS[4]).ok
if found ~= 'none' and found ~= 'string' then
  return {'refused', found}
end
redis.call('SET', KEYS[4], ARGV[7])
return {'done', tell(KEYS[4], ARGV[3], ARGV[4], 'string', ARGV[7])}
