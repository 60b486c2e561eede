-- The head of each script about items: how they are read, and how their changes are told.
-- KEYS: 1 the changes (a stream)  2 what was told last (a hash: name -> digest)  3 the collections (a set)
-- ARGV: 1 prefix of the collections' indexes (sorted sets of keys)  2 changes to keep

local READERS = {
  hash = {'HGETALL'}, list = {'LRANGE', 0, -1}, set = {'SMEMBERS'}, zset = {'ZRANGE', 0, -1, 'WITHSCORES'},
}

local function read(name) -- kind, raw; other types (streams, modules) are no items
  local kind = redis.call('TYPE', name).ok
  if kind == 'string' then
    return kind, redis.call('GET', name)
  end
  local reader = READERS[kind]
  if not reader then
    return 'none', ''
  end
  return kind, cmsgpack.pack(redis.call(reader[1], name, unpack(reader, 2)))
end

local function digest(kind, raw)
  return kind == 'none' and '' or redis.sha1hex(kind .. raw)
end

local function fence() -- the id of the last change
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

-- Each entry says which one it follows, so that a reader knows that it has all; and what found it, if not the service
-- wrote it.
local function append(name, kind, raw, by)
  return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
    'after', fence(), 'name', name, 'kind', kind, 'raw', raw, 'by', by or '')
end

local function tell(name, collection, key, kind, raw, by) -- the new entry's id
  local index = ARGV[1] .. collection
  if kind == 'none' then
    redis.call('HDEL', KEYS[2], name)
    redis.call('ZREM', index, key)
    if redis.call('EXISTS', index) == 0 then
      redis.call('SREM', KEYS[3], collection)
    end
  else
    redis.call('HSET', KEYS[2], name, digest(kind, raw))
    redis.call('ZADD', index, 0, key)
    redis.call('SADD', KEYS[3], collection)
  end
  return append(name, kind, raw, by)
end

