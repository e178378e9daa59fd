-- Tokens in order, each once. KEYS: fence, request, tokens. ARGV: epoch, holder, position of the first, tokens…
local refused = stale()
if refused then return refused end
local state = redis.call('HGET', KEYS[2], 'state')
if not state then return {'missing'} end
if state ~= 'open' then return {'ended', state} end
local length, first = redis.call('XLEN', KEYS[3]), tonumber(ARGV[3])
if first > length then return {'gap', length} end
for position = length, first + #ARGV - 4 do
  redis.call('XADD', KEYS[3], (position + 1) .. '-0', 't', ARGV[position - first + 4])
end
return {'recorded', redis.call('XLEN', KEYS[3])}
