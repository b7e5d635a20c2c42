-- Names the client an API key belongs to, or refuses. Knows only digests: CLIENTS (digest -> name) is put
-- in front by the renderer. A look-up by digest tells an attacker's clock nothing about a key.

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:getNumValues("authorization")
  local other = headers:getNumValues("x-api-key")
  local key
  if given == 1 and other == 0 then
    local scheme, credential = headers:get("authorization"):match("^(%a+) +([%w._~+/=-]+)$")
    if scheme and scheme:lower() == "bearer" then key = credential end
  elseif other == 1 and given == 0 then
    key = headers:get("x-api-key"):match("^[%w._~+/=-]+$")
  end
  local client = key and #key <= 256 and CLIENTS[sha256(key)]
  if not client then
    return handle:respond({ [":status"] = "401" }, "")
  end
  headers:replace("x-client-id", client)
end
