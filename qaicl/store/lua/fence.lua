-- Put in front of every script that changes requests. KEYS[1]: the fence. ARGV[1], ARGV[2]: the speaker's epoch, holder.
-- Refuses an epoch below the highest one known, and the same epoch from another holder, which two leaders can get when
-- a failover loses the last writes. A higher epoch than the known one means that such a write was lost: it is put back.
local function stale()
  local known = redis.call('HMGET', KEYS[1], 'epoch', 'holder')
  local epoch, highest, holder = tonumber(ARGV[1]), tonumber(known[1] or 0), known[2] or ''
  if epoch < highest or (epoch == highest and holder ~= ARGV[2] and holder ~= '' and ARGV[2] ~= '') then
    return {'stale', highest, holder}
  end
  if epoch > highest then
    redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'holder', ARGV[2])
  end
  return false
end
