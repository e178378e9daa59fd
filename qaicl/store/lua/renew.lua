-- Longer for the same epoch. ARGV[3]: the epoch. A lease that ran out is taken again where nobody took over meanwhile.
local epoch = tonumber(ARGV[3])
if live == epoch and lease[2] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return {'leased', epoch, ARGV[1]}
end
if epoch > highest then return lead(epoch) end
if live == 0 and epoch == highest and fence[2] == ARGV[1] then return lead(epoch) end
return held()
