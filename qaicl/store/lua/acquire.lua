-- A new epoch, only where no lease is live. ARGV[3]: an epoch that the caller knows of.
if live > 0 then return held() end
return lead(math.max(highest, tonumber(ARGV[3])) + 1)
