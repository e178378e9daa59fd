-- Longer for the same epoch. ARGV[3]: the epoch. A lease that ran out, or that a failover turned back into an older one, is
-- taken again where nobody took over meanwhile.
local epoch = tonumber(ARGV[3])
if live == epoch and lease[2] == ARGV[1] and epoch >= highest then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return {'leased', epoch, ARGV[1]}
end
if epoch > highest then return lead(epoch) end
if live < epoch and epoch == highest and fence[2] == ARGV[1] then return lead(epoch) end
return held()
