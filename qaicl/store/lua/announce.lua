-- A registry record that runs out. KEYS: record, index. ARGV: channel, name, incarnation, record, time to live in ms.
local before = redis.call('HGET', KEYS[1], 'incarnation')
redis.call('HSET', KEYS[1], 'incarnation', ARGV[3], 'record', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('SADD', KEYS[2], ARGV[2])
if before ~= ARGV[3] then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
return {'announced'}
