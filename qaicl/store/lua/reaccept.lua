-- Puts back what a server lost. ARGV: epoch, holder, id, payload, state, result, ms to keep it, all tokens…
local refused = stale()
if refused then return refused end
local state = redis.call('HGET', KEYS[3], 'state')
if state and state ~= 'open' then return {'ended', state} end
if not state then
  local now = redis.call('TIME')
  local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[3])
  redis.call('DEL', KEYS[4])
  redis.call('HSET', KEYS[3], 'payload', ARGV[4], 'state', 'open', 'entry', entry,
    'accepted', now[1] * 1000 + math.floor(now[2] / 1000))
end
for position = redis.call('XLEN', KEYS[4]), #ARGV - 8 do
  redis.call('XADD', KEYS[4], (position + 1) .. '-0', 't', ARGV[position + 8])
end
if ARGV[5] ~= 'open' then return finish(ARGV[3], ARGV[5], ARGV[6], ARGV[7]) end
return {'recorded', redis.call('XLEN', KEYS[4])}
