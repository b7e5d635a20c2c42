-- One operation on one client's budget, executed atomically by Redis.
-- KEYS: requests bucket, tokens bucket, reservation. ARGV: operation, amount, requests per minute,
-- tokens per minute (0: no limit).
-- A bucket has the capacity of one minute and refills evenly. Only Redis's clock is used.
-- No key expires: with the policy volatile-lru, Redis evicts only keys that do. sweep.lua deletes what is not needed.
local question, amount = ARGV[1], tonumber(ARGV[2])
local limits = { tonumber(ARGV[3]), tonumber(ARGV[4]) }
local clock = redis.call("TIME")
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000

local function level_of(index)
  local limit = limits[index]
  local stored = redis.call("HMGET", KEYS[index], "level", "at")
  local level, at = tonumber(stored[1]), tonumber(stored[2])
  if not level or not at then return limit end
  return math.min(limit, level + math.max(0, now - at) * limit / 60)
end

local function keep(index, level)
  local limit = limits[index]
  local full = now + (limit - level) * 60 / limit
  redis.call("HSET", KEYS[index], "level", string.format("%.6f", level), "at", string.format("%.6f", now),
    "full", string.format("%.0f", full))
  redis.call("PERSIST", KEYS[index]) -- an earlier release set an expiry
end

if question == "settle" then
  local reserved = redis.call("GETDEL", KEYS[3])
  if not reserved then return { "0", "0", "0", "0" } end
  if limits[2] > 0 then keep(2, math.min(limits[2], level_of(2) + tonumber(reserved) - amount)) end
  return { "1", reserved, "0", "0" }
end

local needs = { 1, amount }
local levels, wait = { 0, 0 }, 0
for index = 1, 2 do
  if limits[index] > 0 then
    levels[index] = level_of(index)
    wait = math.max(wait, (needs[index] - levels[index]) * 60 / limits[index])
  end
end
local admitted = wait <= 0
if admitted then
  for index = 1, 2 do
    if limits[index] > 0 then
      levels[index] = levels[index] - needs[index]
      keep(index, levels[index])
    end
  end
  redis.call("SET", KEYS[3], amount)
end
return { admitted and "1" or "0", string.format("%.3f", levels[1]), string.format("%.3f", levels[2]),
  string.format("%.3f", wait) }
