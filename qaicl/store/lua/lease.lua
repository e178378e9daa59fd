-- Put in front of the lease scripts. KEYS: fence, lease. ARGV[1], ARGV[2]: holder, time to live in ms.
local fence = redis.call('HMGET', KEYS[1], 'epoch', 'holder')
local lease = redis.call('HMGET', KEYS[2], 'epoch', 'holder')
local highest = tonumber(fence[1] or 0)
local live = tonumber(lease[1] or 0)

local function lead(epoch)
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'holder', ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  if epoch > highest then
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'holder', ARGV[1])
  end
  return {'leased', epoch, ARGV[1]}
end

local function held()
  if live == 0 then return {'held', highest, ''} end
  if live < highest then return {'held', highest, fence[2]} end
  return {'held', live, lease[2]}
end
