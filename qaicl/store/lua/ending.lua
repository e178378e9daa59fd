-- Put in front of the scripts that end a request. KEYS: fence, requests, request, tokens, results.
local function finish(id, state, result, ttl)
  local entry = redis.call('HGET', KEYS[3], 'entry')
  redis.call('XDEL', KEYS[2], entry)
  redis.call('HSET', KEYS[3], 'state', state, 'result', result)
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, '*', 'id', id, 'state', state)
  redis.call('PEXPIRE', KEYS[3], ttl)
  redis.call('PEXPIRE', KEYS[4], ttl)
  return {'finished'}
end
