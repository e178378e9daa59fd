-- Live records; names whose record ran out leave the index. KEYS: index. ARGV: prefix of the records' keys.
local found = {}
local names = redis.call('SMEMBERS', KEYS[1])
table.sort(names)
for _, name in ipairs(names) do
  local record = redis.call('HGET', ARGV[1] .. name, 'record')
  if record then
    found[#found + 1] = {name, record}
  else
    redis.call('SREM', KEYS[1], name)
  end
end
return {'listed', found}
