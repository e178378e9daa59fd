-- How a request ended, once. ARGV: epoch, holder, id, state, result, ms to keep it, number of tokens or -1.
local refused = stale()
if refused then return refused end
local state = redis.call('HGET', KEYS[3], 'state')
if not state then return {'missing'} end
if state ~= 'open' then return {'ended', state} end
local length, expected = redis.call('XLEN', KEYS[4]), tonumber(ARGV[7])
if expected >= 0 and length < expected then return {'gap', length} end
return finish(ARGV[3], ARGV[4], ARGV[5], ARGV[6])
