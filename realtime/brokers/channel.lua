-- The head of each script about channels: where one stands, in an epoch of this very server.
-- ARGV: 1 the name of an epoch, should one have to be opened  2 seconds that the meta lives

local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')

local function keep_alive(key, seconds)
  if redis.call('TTL', key) < seconds / 2 then -- not each time: it would be written to the AOF each time
    redis.call('EXPIRE', key, seconds)
  end
end

-- Its log: a stream, an entry's id is `<offset>-0`. Its meta: a hash.
-- No meta: flushed, or long unused. Another server: restarted, restored or failed over, perhaps with an older copy of
-- the log, where offsets would be given out twice. The version may stay: it keeps out what was told before.
local function stand(log, meta, name) -- its epoch, offset, version
  local kept = redis.call('HMGET', meta, 'epoch', 'offset', 'version', 'server')
  local epoch, offset, version = kept[1], tonumber(kept[2]), kept[3] or ''
  if kept[4] ~= server then
    epoch, offset = name, 0
    redis.call('DEL', log)
    redis.call('HSET', meta, 'epoch', epoch, 'offset', offset, 'server', server)
  end
  keep_alive(meta, tonumber(ARGV[2]))
  return epoch, offset, version
end

