-- A request, once. KEYS: fence, requests, request. ARGV: epoch, holder, id, payload.
local refused = stale()
if refused then return refused end
local state = redis.call('HGET', KEYS[3], 'state')
if state then return {'exists', state} end
local now = redis.call('TIME')
local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[3])
redis.call('HSET', KEYS[3], 'payload', ARGV[4], 'state', 'open', 'entry', entry,
  'accepted', now[1] * 1000 + math.floor(now[2] / 1000))
return {'accepted'}
