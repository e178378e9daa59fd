-- Put in front of the scripts that read requests.
local function read(request, tokens)
  local found = redis.call('HMGET', request, 'state', 'payload', 'accepted', 'result')
  if not found[1] then return false end
  local values = {}
  for index, entry in ipairs(redis.call('XRANGE', tokens, '-', '+')) do
    values[index] = entry[2][2]
  end
  return {found[1], found[2], found[3], found[4] or '', values}
end
