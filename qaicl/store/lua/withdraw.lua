-- Removes a record, unless another incarnation took its name. KEYS: record, index. ARGV: channel, name, incarnation.
if redis.call('HGET', KEYS[1], 'incarnation') == ARGV[3] then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[2])
  redis.call('PUBLISH', ARGV[1], ARGV[2])
end
return {'withdrawn'}
