-- The head of each script about one channel: where it stands, in an epoch of this very server.
-- KEYS: 1 its log (a stream, an entry's id is `<offset>-0`)  2 its meta (a hash)
-- ARGV: 1 the name of an epoch, should one have to be opened  2 seconds that the meta lives

local function keep_alive(key, seconds)
  if redis.call('TTL', key) < seconds / 2 then -- not each time: it would be written to the AOF each time
    redis.call('EXPIRE', key, seconds)
  end
end

-- No meta: flushed, or long unused. Another server: restarted, restored or failed over, perhaps with an older copy of
-- the log, where offsets would be given out twice. The version may stay: it keeps out what was told before.
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local meta = redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'version', 'server')
local epoch, offset, version = meta[1], tonumber(meta[2]), meta[3] or ''
if meta[4] ~= server then
  epoch, offset = ARGV[1], 0
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'offset', offset, 'server', server)
end
keep_alive(KEYS[2], tonumber(ARGV[2]))

