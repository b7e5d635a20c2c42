-- Admits a request's body or refuses it with the field that is wrong. Knows no client's limits and
-- chooses no backend. RULES and BUDGETS are put in front by the renderer.

local function refuse(handle, status, code, param, message)
  local kind = status == "401" and "authentication_error" or status == "500" and "server_error"
    or "invalid_request_error"
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("edge", "refused", true)
  metadata:set("edge", "code", code)
  if param then metadata:set("edge", "param", param) end
  local answer = { [":status"] = status, ["content-type"] = "application/json" }
  if status == "401" then answer["www-authenticate"] = 'Bearer realm="llm"' end
  handle:respond(answer,
    '{"error":{"message":"' .. message:gsub('[\\"]', "\\%0") .. '","type":"' .. kind .. '","param":'
    .. (param and '"' .. param .. '"' or "null") .. ',"code":"' .. code .. '"}}')
end

-- The first thing wrong with the fields, as code, field and message.
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

-- Tokens to hold back before admission: the prompt by its size and the longest answer asked for.
local function tokens_to_reserve(rule, bytes, value)
  local prompt = math.ceil(bytes / BUDGETS.prompt_bytes_per_token)
  if not rule.output_tokens then return prompt end
  local output
  for index = 1, #rule.output_tokens do
    output = output or value[rule.output_tokens[index]]
  end
  return prompt + (output or BUDGETS.assumed_max_tokens) * (value.n or 1)
end

-- What is wrong with a body as code, field and message; or three nils and the tokens to reserve.
local function judge(rule, text)
  local wrong, kind, length, value, odd = check_json(text, rule.wanted)
  if wrong then return wrong.code, wrong.param, wrong.message end
  local code, param, message = first_wrong_field(rule, kind, length, value, odd)
  if code then return code, param, message end
  return nil, nil, nil, BUDGETS and tokens_to_reserve(rule, #text, value)
end

local function is_json(content_type)
  if not content_type then return false end
  if content_type == "application/json" then return true end
  local lower = content_type:lower()
  local rest = lower:match("^application/json%s*(.*)$")
  return rest == "" or (rest ~= nil and rest:match('^;%s*charset="?utf%-8"?%s*$') ~= nil)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  local question = path:find("?", 1, true)
  if question then path = path:sub(1, question - 1) end
  local rule = RULES[path]
  if not rule and not path:find("^/v1/models") then return end -- a route that only refuses

  local client = headers:get("x-client-id")
  if not client or #client > 128 or not client:find("^[%w][%w._@:|/-]*$") then
    return refuse(handle, "401", "invalid_client", nil, "The credential names no usable client.")
  end
  -- Several Host lines come as one value with commas; a name or an address has none, and no user part.
  local host = headers:get(":authority") or ""
  if not host:find("^[%w._-]+$") and not host:find("^%[[%x:.]+%]$") then
    return refuse(handle, "400", "invalid_host", nil, "The request must name exactly one host.")
  end
  if not rule or headers:get(":method") ~= "POST" then
    -- Nobody here reads such a body, so nobody would bound it.
    local announced = headers:get("content-length")
    if announced and announced ~= "0" or headers:get("transfer-encoding") or handle:body() then
      return refuse(handle, "400", "unexpected_body", nil, "This method takes no body.")
    end
    return
  end

  if not is_json(headers:get("content-type")) then
    return refuse(handle, "415", "unsupported_content_type", nil, "The content-type must be application/json.")
  end
  local coding = headers:get("content-encoding")
  if coding and coding:lower() ~= "identity" then
    return refuse(handle, "415", "unsupported_content_encoding", nil, "The body must not be compressed.")
  end
  local announced = tonumber(headers:get("content-length") or 0)
  if announced and announced > rule.max_bytes then
    return refuse(handle, "413", "request_too_large", nil,
      "The body may have at most " .. rule.max_bytes .. " bytes.")
  end

  local body = handle:body()
  local bytes = body and body:length() or 0
  if bytes == 0 then
    return refuse(handle, "400", "invalid_json", nil, "The body is empty; it must be a JSON object.")
  end
  -- A fault of the script itself must refuse too: Envoy would go on without it.
  local sound, code, param, message, tokens = pcall(judge, rule, body:getBytes(0, bytes))
  if not sound then
    handle:logErr("admission failed: " .. tostring(code))
    return refuse(handle, "500", "edge_error", nil, "The edge could not check the request.")
  end
  if code then return refuse(handle, "400", code, param, message) end
  if tokens then handle:streamInfo():dynamicMetadata():set("edge", "reserve", tostring(tokens)) end
end

-- With budgets: learn what an answer really used, so that the reservation can be settled.
if BUDGETS then
  local function used(report)
    local prompt, completion = (report or ""):match("^prompt=(%d+),completion=(%d+)$")
    return prompt and tostring(tonumber(prompt) + tonumber(completion))
  end

  function envoy_on_response(handle)
    local edge = handle:streamInfo():dynamicMetadata():get("edge")
    if not edge or not edge.reserve then return end
    local headers = handle:headers()
    local status = headers:get(":status")
    if status == "429" and not headers:get("x-route-attempts") then return end -- refused: nothing is held
    local total = used(headers:get("x-route-tokens"))
    if not total and status ~= "200" then total = "0" end
    if not total then
      local trailers = handle:trailers() -- the body passes meanwhile
      total = trailers and used(trailers:get("x-route-tokens"))
    end
    -- Unknown usage leaves the reservation charged: too much rather than too little.
    if total then handle:streamInfo():dynamicMetadata():set("edge", "settle", total) end
  end
end
