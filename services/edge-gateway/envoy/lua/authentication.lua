-- Finds the client of an API key, or refuses the request. Knows only digests: the renderer writes CLIENTS
-- (digest -> name) and closing.lua before this script. The time of a lookup by digest reveals nothing about a key.

-- Each worker logs refused credentials up to this rate; the counters contain all of them.
local LOGGED_PER_SECOND = 10
local second, logged = 0, 0

local function refuse(handle, two)
  local metadata = handle:streamInfo():dynamicMetadata()
  local now = math.floor(handle:timestamp() / 1000)
  if now ~= second then second, logged = now, 0 end
  logged = logged + 1
  if logged > LOGGED_PER_SECOND then metadata:set("edge", "quiet", true) end
  close_unauthenticated(handle)
  if two then metadata:set("edge", "two_credentials", true) end
  handle:respond({ [":status"] = "401" }, "")
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:getNumValues("authorization")
  local other = headers:getNumValues("x-api-key")
  if given + other > 1 then return refuse(handle, true) end
  local key
  if given == 1 then
    local scheme, credential = headers:get("authorization"):match("^(%a+) +([%w._~+/=-]+)$")
    if scheme and scheme:lower() == "bearer" then key = credential end
  elseif other == 1 then
    key = headers:get("x-api-key"):match("^[%w._~+/=-]+$")
  end
  local client = key and #key <= 256 and CLIENTS[sha256(key)]
  if not client then return refuse(handle, false) end
  headers:replace("x-client-id", client)
end
