-- Requests that have not ended, oldest first. KEYS: requests. ARGV: prefix of all keys, entry to go on after, how many.
local from = ARGV[2]
if from ~= '-' then from = '(' .. from end
local found, last = {}, ''
for index, entry in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3])) do
  local id = entry[2][2]
  last = entry[1]
  found[index] = {id, read(ARGV[1] .. 'req:' .. id, ARGV[1] .. 'tok:' .. id)}
end
return {'open', last, found}
