-- Admits a request body, or refuses it and names the invalid field. Must not know clients' limits or choose
-- backends. The renderer writes RULES, QUERIES, MEDIA_HOSTS and BUDGETS before this script.

local KINDS = {
  ["401"] = "authentication_error", ["429"] = "rate_limit_error", ["500"] = "server_error",
}
-- Anthropic's error names, where they differ.
local ANTHROPIC_KINDS = { ["413"] = "request_too_large", ["500"] = "api_error" }

local function is_anthropic(path)
  return path ~= nil and path:find("^/v1/messages") ~= nil
end

local function quoted(text)
  return '"' .. text:gsub('[\\"]', "\\%0") .. '"'
end

-- Returns an error body in the form of the path's API.
local function error_body(headers, status, kind, code, param, message)
  if is_anthropic(headers:get(":path")) then
    return '{"type":"error","error":{"type":"' .. (ANTHROPIC_KINDS[status] or kind) .. '","message":'
      .. quoted(message) .. '},"request_id":' .. quoted(headers:get("x-request-id") or "") .. "}"
  end
  return '{"error":{"message":' .. quoted(message) .. ',"type":"' .. kind .. '","param":'
    .. (param and quoted(param) or "null") .. ',"code":"' .. code .. '"}}'
end

local function refuse(handle, status, code, param, message)
  local kind = KINDS[status] or "invalid_request_error"
  held.settle(handle, 0)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("edge", "refused", true)
  metadata:set("edge", "code", code)
  if param then metadata:set("edge", "param", param) end
  local answer = { [":status"] = status, ["content-type"] = "application/json" }
  if status == "401" then answer["www-authenticate"] = 'Bearer realm="llm"' end
  if status == "429" then answer["retry-after"] = "1" end
  if is_anthropic(handle:headers():get(":path")) then answer["request-id"] = handle:headers():get("x-request-id") end
  handle:respond(answer, error_body(handle:headers(), status, kind, code, param, message))
end

-- Returns the first mistake in the fields, as code, field and message.
local function first_wrong_field(rule, kind, length, value, odd)
  for index = 1, #rule.fields do
    local field = rule.fields[index]
    local name = field.name
    local found = kind[name]
    if not found then
      if field.required then
        return "missing_required_parameter", name, "The parameter '" .. name .. "' is required."
      end
    elseif found == "null" and field.nullable then -- the same as leaving it out
    elseif not field.types[found] then
      return "invalid_type", name, "The parameter '" .. name .. "' must be " .. field.types_said .. "."
    else
      local number = value[name]
      if number and field.minimum and number < field.minimum then
        return "value_below_minimum", name, "The parameter '" .. name .. "' must be at least " .. field.minimum .. "."
      end
      if number and field.maximum and number > field.maximum then
        return "value_above_maximum", name, "The parameter '" .. name .. "' must be at most " .. field.maximum .. "."
      end
      if found == "string" and field.min_length and length[name] < field.min_length then
        return "empty_string", name, "The parameter '" .. name .. "' must not be empty."
      end
      if found == "string" and field.max_length and length[name] > field.max_length then
        return "string_too_long", name,
          "The parameter '" .. name .. "' may have at most " .. field.max_length .. " bytes."
      end
      if found == "array" then
        if field.min_items and length[name] < field.min_items then
          return "empty_array", name, "The parameter '" .. name .. "' must not be empty."
        end
        if field.max_items and length[name] > field.max_items then
          return "array_too_long", name,
            "The parameter '" .. name .. "' may have at most " .. field.max_items .. " items."
        end
        if field.items == "object" and odd[name] then
          return "invalid_type", name .. "[" .. odd[name] .. "]",
            "Every item of '" .. name .. "' must be an object."
        end
      end
    end
  end
  if rule.any_of then
    for index = 1, #rule.any_of do
      if kind[rule.any_of[index]] then return nil end
    end
    return "missing_required_parameter", rule.any_of[1],
      "One of the parameters '" .. table.concat(rule.any_of, "', '") .. "' is required."
  end
  return nil
end

-- Lua writes numbers from 1e14 with an exponent, which the rate limit service does not read.
local function digits(number)
  return ("%.0f"):format(number)
end

-- Returns the tokens to reserve: the prompt by its size (audio does not count), and the longest completion for every
-- prompt and every choice. If a body has several limits, the largest counts, whichever the engine reads. If it has
-- none, the second result is the limit that the router shall write into the body.
local function tokens_to_reserve(rule, bytes, value, nested)
  local prompt = math.ceil(bytes / BUDGETS.prompt_bytes_per_token)
  if not rule.output_tokens then return prompt end
  local output
  for index = 1, #rule.output_tokens do
    local limit = value[rule.output_tokens[index]]
    if limit and (not output or limit > output) then output = limit end
  end
  local answers = math.max(value.n or 1, value.best_of or 1) * math.max(nested.prompt or 1, 1)
  local assumed = not output and BUDGETS.assumed_max_tokens or nil
  return prompt + (output or assumed) * answers, assumed
end

-- Returns the mistake in a body as code, field and message; or three nils, the tokens to reserve and the limit that
-- they assume.
local function judge(rule, text, boundary)
  local wrong, kind, length, value, odd, nested, bytes
  if boundary then
    wrong, kind, length, value, odd, nested, bytes = check_form(text, boundary, rule.fields)
  else
    wrong, kind, length, value, odd, nested = check_json(text, rule.wanted, MEDIA_HOSTS)
    bytes = #text
  end
  if wrong then return wrong.code, wrong.param, wrong.message end
  local code, param, message = first_wrong_field(rule, kind, length, value, odd)
  if code then return code, param, message end
  if not BUDGETS then return nil end
  return nil, nil, nil, tokens_to_reserve(rule, bytes, value, nested)
end

local function is_json(content_type)
  if not content_type then return false end
  if content_type == "application/json" then return true end
  local rest = content_type:lower():match("^application/json%s*(.*)$")
  if not rest or rest:find("^[^;]") then return false end
  for parameter in rest:gmatch("[^;]+") do
    if not parameter:find("^%s*$") and not parameter:find('^%s*charset="?utf%-?8"?%s*$') then return false end
  end
  return true
end

-- Returns the parameters of a query that a path knows. Engines ignore others, and an unknown one may be a pasted key.
local function known_parameters(query, known)
  local kept = {}
  for parameter in query:gmatch("[^&]+") do
    if known and known[parameter:match("^[^=]*")] then kept[#kept + 1] = parameter end
  end
  return table.concat(kept, "&")
end

local MAX_PATH_BYTES = #"/v1/models/" + 256

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  local question = path:find("?", 1, true)
  local query = question and path:sub(question + 1)
  if question then path = path:sub(1, question - 1) end
  local rule = RULES[path]
  local stored = not rule and path:match("^/v1/responses/[%w_-]+(.*)$")
  if not rule and not stored and not path:find("^/v1/models") then return end -- a route that only refuses
  if stored and #path - #stored > #"/v1/responses/" + 128 then
    return refuse(handle, "400", "string_too_long", "response_id", "A response's id may have at most 128 bytes.")
  end
  if #path > MAX_PATH_BYTES then
    return refuse(handle, "400", "string_too_long", "model", "A model's name may have at most 256 bytes.")
  end

  local client = headers:get("x-client-id")
  if not client or #client > 128 or not client:find("^[%w][%w._@:|/-]*$") then
    return refuse(handle, "401", "invalid_client", nil, "The credential names no usable client.")
  end
  -- Envoy joins several Host headers with commas; a valid host has neither a comma nor a user part.
  local host = headers:get(":authority") or ""
  if not host:find("^[%w._-]+$") and not host:find("^%[[%x:.]+%]$") then
    return refuse(handle, "400", "invalid_host", nil, "The request must name exactly one host.")
  end
  local info = handle:streamInfo()
  local protocol = info:protocol()
  if protocol == "HTTP/1.0" then
    return refuse(handle, "426", "http_version_not_supported", nil, "Use HTTP/1.1 or HTTP/2.")
  end
  local known = stored and QUERIES["/v1/responses/{id}" .. stored] or QUERIES[path]
  local kept = query and known_parameters(query, known)
  if kept ~= query then headers:replace(":path", kept == "" and path or path .. "?" .. kept) end
  local length = headers:get("content-length")
  if not rule or headers:get(":method") ~= "POST" then
    -- No filter reads such a body, so its size would have no limit.
    if length and length ~= "0" or headers:get("transfer-encoding") or handle:body() then
      return refuse(handle, "400", "unexpected_body", nil, "This method takes no body.")
    end
    return
  end

  local content_type = headers:get("content-type")
  local boundary = rule.form and form_boundary(content_type) or nil
  if rule.form and not boundary then
    return refuse(handle, "415", "unsupported_content_type", nil,
      "The content-type must be multipart/form-data with a boundary.")
  end
  if not rule.form and not is_json(content_type) then
    return refuse(handle, "415", "unsupported_content_type", nil, "The content-type must be application/json.")
  end
  local coding = headers:get("content-encoding")
  if coding and coding:lower() ~= "identity" then
    return refuse(handle, "415", "unsupported_content_encoding", nil, "The body must not be compressed.")
  end
  local announced = tonumber(length or 0)
  if announced and announced > rule.max_bytes then
    return refuse(handle, "413", "request_too_large", nil,
      "The body may have at most " .. rule.max_bytes .. " bytes.")
  end

  -- An HTTP/2 connection carries many concurrent bodies, an HTTP/1 connection only one.
  local connection = protocol == "HTTP/2" and info:downstreamDirectRemoteAddress() or nil
  local who = held.take(handle, client, connection, length and announced or rule.max_bytes)
  if who then
    return refuse(handle, "429", "too_many_bytes_in_flight", nil,
      "This " .. who .. " has too many bytes of request bodies in flight. Retry when a request has ended.")
  end
  local body = handle:body()
  local bytes = body and body:length() or 0
  held.settle(handle, bytes)
  if bytes == 0 then
    return refuse(handle, "400", rule.form and "invalid_form" or "invalid_json", nil,
      "The body is empty; it must be " .. (rule.form and "a form." or "a JSON object."))
  end
  -- An error in this script must refuse the request, because Envoy would continue without the script.
  local sound, code, param, message, tokens, assumed = pcall(judge, rule, body:getBytes(0, bytes), boundary)
  if not sound then
    handle:logErr("admission failed: " .. tostring(code))
    return refuse(handle, "500", "edge_error", nil, "The edge could not check the request.")
  end
  if code then return refuse(handle, "400", code, param, message) end
  if tokens then
    local metadata = handle:streamInfo():dynamicMetadata()
    metadata:set("edge", "reserve", digits(tokens))
    if assumed then metadata:set("edge", "assumed", digits(assumed)) end
    if is_anthropic(path) then metadata:set("edge", "api", "anthropic") end
  end
end

-- With budgets: read the tokens that a response used, to settle the reservation.
if BUDGETS then
  local function used(report)
    local prompt, completion = (report or ""):match("^prompt=(%d+),completion=(%d+)$")
    return prompt and digits(tonumber(prompt) + tonumber(completion))
  end

  function envoy_on_response(handle)
    local edge = handle:streamInfo():dynamicMetadata():get("edge")
    if not edge or not edge.reserve then return end
    local headers = handle:headers()
    local status = headers:get(":status")
    if status == "429" and not headers:get("x-route-attempts") then return end -- refused: nothing is held
    local total = used(headers:get("x-route-tokens"))
    -- A request is free only if no engine worked on it: it was refused, or reached no engine.
    local unsent = headers:get("x-edge-unsent")
    if unsent then headers:remove("x-edge-unsent") end
    if not total and (unsent or headers:get("x-route-attempts") == "0" or (status:find("^4") and status ~= "408")) then
      total = "0"
    end
    if not total then
      local trailers = handle:trailers() -- the body passes meanwhile
      total = trailers and used(trailers:get("x-route-tokens"))
    end
    -- If the usage is unknown, the whole reservation stays charged.
    if total then handle:streamInfo():dynamicMetadata():set("edge", "settle", total) end
  end
end
