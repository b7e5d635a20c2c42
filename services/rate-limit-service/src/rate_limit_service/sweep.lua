-- Deletes a bucket that has been full for a minute, or a reservation that was not settled in time.
-- KEYS: a bucket or a reservation. ARGV: seconds until an unsettled reservation is dropped. Returns the deleted keys.
local kind = redis.call("TYPE", KEYS[1]).ok
if kind == "hash" then
  local full = tonumber(redis.call("HGET", KEYS[1], "full"))
  if full and tonumber(redis.call("TIME")[1]) > full + 60 then return redis.call("DEL", KEYS[1]) end
elseif kind == "string" and redis.call("TTL", KEYS[1]) == -1 then
  if redis.call("OBJECT", "IDLETIME", KEYS[1]) >= tonumber(ARGV[1]) then return redis.call("DEL", KEYS[1]) end
end
return 0
