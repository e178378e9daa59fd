-- Ends the lease at once. ARGV[3]: the epoch.
if live == tonumber(ARGV[3]) and lease[2] == ARGV[1] then
  redis.call('DEL', KEYS[2])
  return {'released'}
end
return held()
