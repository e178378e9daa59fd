-- What is recorded of requests. ARGV: prefix of all keys, ids…
local found = {}
for index = 2, #ARGV do
  local state = redis.call('HGET', ARGV[1] .. 'req:' .. ARGV[index], 'state')
  found[index - 1] = {state or '', redis.call('XLEN', ARGV[1] .. 'tok:' .. ARGV[index])}
end
return {'verified', found}
