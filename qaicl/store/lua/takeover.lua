-- A new epoch although a lease is live, for a holder that is seen to be dead. ARGV[3]: the epoch it holds, ARGV[4]: as in acquire.
local expected = tonumber(ARGV[3])
if live == expected or (live < expected and highest == expected) then
  return lead(math.max(highest, tonumber(ARGV[4])) + 1)
end
return held()
