-- One operation on the budgets of one client and its team, executed atomically by Redis.
-- KEYS: reservation, then one for each budget. ARGV: operation, amount, then for each budget its
-- limit, its period (minute, day, month) and what the operation needs of it (1: a request, t: the amount).
-- A minute is a bucket that refills evenly. A day and a month are counters of a calendar window in UTC.
-- Only Redis's clock is used.
-- No key expires: with the policy volatile-lru, Redis evicts only keys that do. sweep.lua deletes what is not needed.
local question, amount = ARGV[1], tonumber(ARGV[2])
local clock = redis.call("TIME")
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local today = math.floor(now / 86400)

-- The days from 1970-01-01 to the first day of a month, and the month of a day, in the Gregorian calendar.
local function first_day(year, month)
  if month <= 2 then year = year - 1; month = month + 12 end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * (month - 3) + 2) / 5)
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

local function month_of(day)
  local year = 1970 + math.floor(day / 366)
  while first_day(year + 1, 1) <= day do year = year + 1 end
  local month = 12
  while first_day(year, month) > day do month = month - 1 end
  return year, month
end

local year, month = month_of(today)
local windows = { day = today, month = year * 12 + month }
local ends = { day = (today + 1) * 86400,
  month = (month == 12 and first_day(year + 1, 1) or first_day(year, month + 1)) * 86400 }

local budgets = {}
for index = 2, #KEYS do
  local at = 3 * index - 3
  budgets[#budgets + 1] = { key = KEYS[index], limit = tonumber(ARGV[at]), period = ARGV[at + 1],
    need = ARGV[at + 2] == "t" and amount or 1, counts_tokens = ARGV[at + 2] == "t" }
end

-- Return what is left of a budget.
local function left_of(budget)
  local limit = budget.limit
  if budget.period ~= "minute" then
    local stored = redis.call("HMGET", budget.key, "window", "used")
    if tonumber(stored[1]) ~= windows[budget.period] then return limit end
    return limit - tonumber(stored[2])
  end
  local stored = redis.call("HMGET", budget.key, "level", "at")
  local level, at = tonumber(stored[1]), tonumber(stored[2])
  if not level or not at then return limit end
  return math.min(limit, level + math.max(0, now - at) * limit / 60)
end

local function keep(budget, left)
  local limit, key = budget.limit, budget.key
  left = math.min(limit, left)
  if budget.period ~= "minute" then
    redis.call("HSET", key, "window", windows[budget.period], "used", string.format("%.0f", limit - left),
      "full", string.format("%.0f", ends[budget.period]))
    return
  end
  local full = now + (limit - left) * 60 / limit
  redis.call("HSET", key, "level", string.format("%.6f", left), "at", string.format("%.6f", now),
    "full", string.format("%.0f", full))
  redis.call("PERSIST", key) -- an earlier release set an expiry
end

if question == "settle" then
  local stored = redis.call("GETDEL", KEYS[1])
  if not stored then return { "0", "0" } end
  local reserved, day, of_month = string.match(stored, "^(%d+):?(%d*):?(%d*)$")
  local began = { day = tonumber(day), month = tonumber(of_month) }
  for _, budget in ipairs(budgets) do
    -- A window that has ended since the reservation is not corrected.
    if budget.counts_tokens and (budget.period == "minute" or began[budget.period] == windows[budget.period]) then
      keep(budget, left_of(budget) + tonumber(reserved) - amount)
    end
  end
  return { "1", reserved }
end

local wait, refusing, left = 0, 0, {}
for index, budget in ipairs(budgets) do
  left[index] = left_of(budget)
  local missing = budget.need - left[index]
  if missing > 0 then
    local seconds = budget.period == "minute" and missing * 60 / budget.limit or ends[budget.period] - now
    if seconds > wait then wait, refusing = seconds, index end
  end
end
if refusing == 0 then
  for index, budget in ipairs(budgets) do
    left[index] = left[index] - budget.need
    keep(budget, left[index])
  end
  redis.call("SET", KEYS[1], string.format("%.0f:%d:%d", amount, windows.day, windows.month))
end
local answer = { tostring(refusing), string.format("%.3f", wait) }
for index = 1, #left do answer[index + 2] = string.format("%.3f", left[index]) end
return answer
