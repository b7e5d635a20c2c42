-- Checks in one pass that a text is strict JSON, and reports the fields at the top level of its object.
-- Must not know HTTP or paths. Works on bytes through LuaJIT's FFI: a byte costs about a nanosecond once
-- compiled, and values that are not reported cause no allocation.
local ffi = require("ffi")

local MAX_DEPTH = 64
local MAX_NUMBER_BYTES = 64
local MAX_EXPONENT_DIGITS = 4
-- A check allocates memory for keys, about 0.1 µs each: this number takes a worker milliseconds.
local MAX_KEYS = 50000
-- A container costs the router a hundred times as much as its two bytes.
local MAX_CONTAINERS = 100000

-- Kinds of values, with the names of the field rules.
local STRING, NUMBER, INTEGER, BOOLEAN, NULL, ARRAY, OBJECT =
  "string", "number", "integer", "boolean", "null", "array", "object"

-- Class of a byte inside a string: 0 plain, 1 ends the run.
local SPECIAL = ffi.new("uint8_t[256]")
for byte = 0, 255 do
  if byte < 0x20 or byte == 0x22 or byte == 0x5C or byte >= 0x80 then SPECIAL[byte] = 1 end
end
-- What follows a backslash: 1 a single character, 2 four hexadecimal digits.
local ESCAPE = ffi.new("uint8_t[256]")
for _, byte in ipairs({ 0x22, 0x5C, 0x2F, 0x62, 0x66, 0x6E, 0x72, 0x74 }) do ESCAPE[byte] = 1 end
ESCAPE[0x75] = 2
-- The value of a hexadecimal digit; 255 for other bytes.
local HEX = ffi.new("uint8_t[256]")
for byte = 0, 255 do HEX[byte] = 255 end
for digit = 0, 9 do HEX[0x30 + digit] = digit end
for digit = 0, 5 do
  HEX[0x41 + digit] = 10 + digit
  HEX[0x61 + digit] = 10 + digit
end

-- Buffers of one check. A check never yields, so one set per worker is enough.
local container = ffi.new("uint8_t[?]", MAX_DEPTH + 2) -- 1 object, 2 array
local members = ffi.new("int32_t[?]", MAX_DEPTH + 2)
local identity = ffi.new("double[?]", MAX_DEPTH + 2)
local opened_as = {} -- the key whose value the container is, false for a member of an array

local function four_hex(p, i)
  local a, b, c, d = HEX[p[i]], HEX[p[i + 1]], HEX[p[i + 2]], HEX[p[i + 3]]
  if a == 255 or b == 255 or c == 255 or d == 255 then return nil end
  return a * 4096 + b * 256 + c * 16 + d
end

-- Returns the position after the UTF-8 sequence at i, or nil: overlong forms, surrogates and values above
-- U+10FFFF are not UTF-8. A read past the end finds Lua's closing NUL, which fails the test.
local function after_utf8(p, i)
  local lead = p[i]
  if lead < 0xC2 then return nil end
  if lead < 0xE0 then
    if p[i + 1] - 0x80 >= 0 and p[i + 1] < 0xC0 then return i + 2 end
    return nil
  end
  local low, high = 0x80, 0xBF
  if lead < 0xF0 then
    if lead == 0xE0 then low = 0xA0 elseif lead == 0xED then high = 0x9F end
    if p[i + 1] < low or p[i + 1] > high or p[i + 2] < 0x80 or p[i + 2] > 0xBF then return nil end
    return i + 3
  end
  if lead > 0xF4 then return nil end
  if lead == 0xF0 then low = 0x90 elseif lead == 0xF4 then high = 0x8F end
  if p[i + 1] < low or p[i + 1] > high or p[i + 2] < 0x80 or p[i + 2] > 0xBF
    or p[i + 3] < 0x80 or p[i + 3] > 0xBF then return nil end
  return i + 4
end

-- Reads a string whose first byte is at i. Returns the position after the closing quote and whether it has an
-- escape; or nil and the mistake.
local function after_string(p, i)
  local escaped = false
  while true do
    while SPECIAL[p[i]] == 0 do i = i + 1 end
    local byte = p[i]
    if byte == 0x22 then return i + 1, escaped end
    if byte == 0x5C then
      escaped = true
      local kind = ESCAPE[p[i + 1]]
      if kind == 1 then
        i = i + 2
      elseif kind == 2 then
        local unit = four_hex(p, i + 2)
        if not unit then return nil, "an incomplete \\u escape", i end
        i = i + 6
        if unit >= 0xDC00 and unit <= 0xDFFF then return nil, "a lone surrogate", i - 6 end
        if unit >= 0xD800 and unit <= 0xDBFF then
          local low = p[i] == 0x5C and p[i + 1] == 0x75 and four_hex(p, i + 2)
          if not low or low < 0xDC00 or low > 0xDFFF then return nil, "a lone surrogate", i - 6 end
          i = i + 6
        end
      else
        return nil, "an unknown escape", i
      end
    elseif byte < 0x20 then
      return nil, "a control character or an unfinished string", i
    else
      local after = after_utf8(p, i)
      if not after then return nil, "bytes that are not UTF-8", i end
      i = after
    end
  end
end

-- Reads a number. Returns the position after it, whether it is written as an integer, and whether its exponent
-- has so many digits that parsers disagree; or nil.
local function after_number(p, i)
  local integer = true
  if p[i] == 0x2D then i = i + 1 end
  if p[i] == 0x30 then
    i = i + 1
  elseif p[i] >= 0x31 and p[i] <= 0x39 then
    repeat i = i + 1 until p[i] < 0x30 or p[i] > 0x39
  else
    return nil
  end
  if p[i] == 0x2E then
    integer = false
    i = i + 1
    if p[i] < 0x30 or p[i] > 0x39 then return nil end
    repeat i = i + 1 until p[i] < 0x30 or p[i] > 0x39
  end
  if p[i] == 0x65 or p[i] == 0x45 then
    integer = false
    i = i + 1
    if p[i] == 0x2B or p[i] == 0x2D then i = i + 1 end
    if p[i] < 0x30 or p[i] > 0x39 then return nil end
    local digits = i
    repeat i = i + 1 until p[i] < 0x30 or p[i] > 0x39
    if i - digits > MAX_EXPONENT_DIGITS then return i, false, true end
  end
  return i, integer, false
end

local function utf8_of(code)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
  end
  return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64,
    0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

-- Returns a key without escapes, so that two spellings of a key are equal.
local function unescaped(key)
  -- One pass from left to right: an escaped backslash must not start an escape.
  local parts, from = {}, 1
  local at = key:find("\\", from, true)
  while at do
    parts[#parts + 1] = key:sub(from, at - 1)
    local kind = key:sub(at + 1, at + 1)
    from = at + 2
    if kind == "u" then
      local code = tonumber(key:sub(at + 2, at + 5), 16)
      from = at + 6
      if code >= 0xD800 and code <= 0xDBFF then
        code = 0x10000 + (code - 0xD800) * 1024 + tonumber(key:sub(from + 2, from + 5), 16) - 0xDC00
        from = from + 6
      end
      parts[#parts + 1] = utf8_of(code)
    else
      parts[#parts + 1] = PLAIN[kind] or kind
    end
    at = key:find("\\", from, true)
  end
  parts[#parts + 1] = key:sub(from)
  return table.concat(parts)
end

-- Two parsers may read different values of a repeated key, so repeated keys are refused at any depth.
local function key_at(text, from, to, escaped)
  local key = text:sub(from + 1, to)
  if escaped then return unescaped(key) end
  return key
end

-- Fields with URLs that an engine fetches. A part is an item of one of the lists PARTS, or the value of one of
-- ROOT_PARTS; a tool's arguments and schemas may contain any URL.
local FETCHED = { url = true, image_url = true, video_url = true, audio_url = true, file_url = true }
local WRAPPED = { image_url = true, video_url = true, audio_url = true, input_audio = true, source = true }
local ROOT_PARTS = {
  query = true, queries = true, documents = true, items = true,
  data_1 = true, data_2 = true, text_1 = true, text_2 = true,
}
local PARTS = { content = true, output = true, input = true }
for name in pairs(ROOT_PARTS) do PARTS[name] = true end

local function is_part(depth)
  if depth < 2 or depth > 7 or container[depth] ~= 1 then return false end
  if container[depth - 1] == 1 then return depth == 2 and ROOT_PARTS[opened_as[2]] or false end
  local list = opened_as[depth - 1]
  return list and PARTS[list] and (depth < 6 or list == "content") or false
end

-- Returns whether the string under `name` in the object at `depth` is a URL that an engine would fetch.
local function names_media(name, depth)
  if name ~= "url" then return is_part(depth) end
  return WRAPPED[opened_as[depth]] and is_part(depth - 1) or false
end

-- Returns whether the URL between two quotes is inline, or has one of the hosts. URL parsers disagree on user
-- names, backslashes and escapes, so none of them is allowed before the path.
local function may_be_fetched(text, start, after, hosts)
  if after - start > 6 and text:sub(start + 2, start + 6):lower() == "data:" then return true end
  if not hosts then return false end
  local host, rest = text:sub(start + 2, math.min(after - 1, start + 512)):lower():match("^https?://([a-z0-9.-]+)(.*)$")
  if not host or not hosts[host] then return false end
  return rest == "" or rest:find("^:%d+$") ~= nil or rest:find("^:?%d*[/?]") ~= nil
end

-- Returns nil and the findings about the top level, or a refusal {message=, param=}.
-- `wanted` is a set of the field names to report on, `media_hosts` the hosts that media may be fetched from.
-- Findings: kind, length (bytes of a string, members of an array), value (of a number), odd (index of the
-- first member of an array that is not an object) and nested (members of an array that are not numbers).
local function check_json(text, wanted, media_hosts)
  local n = #text
  local p = ffi.cast("const uint8_t*", text)
  local kind, length, value, odd, nested = {}, {}, {}, {}, {}
  local pending -- the last key read; names the value that follows it in an object
  local seen = {}
  local depth, i, serial, keys_met, containers = 0, 0, 0, 0, 0
  local expecting = 1 -- 1 a value, 2 a value or ], 3 a key, 4 a key or }, 5 a comma or an end
  local field -- the top-level field whose value is being read, if it is wanted
  local function refuse(what, at)
    return { message = "The body is not valid JSON: " .. what .. " at byte " .. tostring(at) .. ".", param = nil,
      code = "invalid_json" }
  end
  if n >= 3 and p[0] == 0xEF and p[1] == 0xBB and p[2] == 0xBF then
    return refuse("a byte order mark", 0)
  end

  while true do
    local byte = p[i]
    while byte == 0x20 or byte == 0x0A or byte == 0x0D or byte == 0x09 do
      i = i + 1
      byte = p[i]
    end
    if i >= n then
      if depth == 0 and expecting == 5 then break end
      return refuse(n == 0 and "nothing" or "an unexpected end", i)
    end

    if expecting <= 2 then
      local found
      local start = i
      if byte == 0x22 then
        local after, what, at = after_string(p, i + 1)
        if not after then return refuse(what, at) end
        i = after
        found = STRING
        if depth > 0 and container[depth] == 1 and FETCHED[pending] and names_media(pending, depth)
          and not may_be_fetched(text, start, after, media_hosts) then
          return { message = "Media must be part of the request as a data: URL; this URL is not fetched.",
            code = "media_url_not_allowed", param = pending }
        end
      elseif byte == 0x7B or byte == 0x5B then
        if depth >= MAX_DEPTH then
          return { message = "The body is nested deeper than " .. MAX_DEPTH .. " levels.", code = "nested_too_deep" }
        end
        containers = containers + 1
        if containers > MAX_CONTAINERS then
          return { message = "The body has more than " .. MAX_CONTAINERS .. " arrays and objects.",
            code = "too_many_containers" }
        end
        if depth == 0 and byte == 0x5B then
          return { message = "The body must be a JSON object.", code = "invalid_type" }
        end
        if depth == 1 and field then kind[field] = byte == 0x7B and OBJECT or ARRAY end
        if depth == 2 and field and byte == 0x5B and not odd[field] and container[2] == 2 then
          odd[field] = members[2]
        end
        if depth == 2 and field and container[2] == 2 then nested[field] = (nested[field] or 0) + 1 end
        opened_as[depth + 1] = depth > 0 and container[depth] == 1 and pending or false
        depth = depth + 1
        container[depth] = byte == 0x7B and 1 or 2
        members[depth] = 0
        if byte == 0x7B then
          serial = serial + 1
          identity[depth] = serial
        end
        i = i + 1
        expecting = byte == 0x7B and 4 or 2
        goto continue
      elseif byte == 0x2D or (byte >= 0x30 and byte <= 0x39) then
        local after, integer, endless = after_number(p, i)
        if not after then return refuse("a malformed number", i) end
        if after - i > MAX_NUMBER_BYTES then
          return { message = "A number in the body is longer than " .. MAX_NUMBER_BYTES .. " characters.",
            code = "number_too_long", param = field }
        end
        found = integer and INTEGER or NUMBER
        -- Only a long exponent or a long number can exceed the range of a double.
        if field and depth == 1 or after - i > 18 or not integer then
          local number = not endless and tonumber(text:sub(start + 1, after))
          if not number or number == math.huge or number == -math.huge then
            return { message = "A number in the body is out of range.", code = "number_out_of_range", param = field }
          end
          if field and depth == 1 then value[field] = number end
        end
        i = after
      elseif byte == 0x74 and p[i + 1] == 0x72 and p[i + 2] == 0x75 and p[i + 3] == 0x65 then
        i = i + 4
        found = BOOLEAN
      elseif byte == 0x66 and p[i + 1] == 0x61 and p[i + 2] == 0x6C and p[i + 3] == 0x73 and p[i + 4] == 0x65 then
        i = i + 5
        found = BOOLEAN
      elseif byte == 0x6E and p[i + 1] == 0x75 and p[i + 2] == 0x6C and p[i + 3] == 0x6C then
        i = i + 4
        found = NULL
      elseif byte == 0x5D and expecting == 2 then
        expecting = 5
        goto close
      else
        return refuse("an unexpected character", i)
      end
      if depth == 0 then
        return { message = "The body must be a JSON object.", code = "invalid_type" }
      end
      if field then
        if depth == 1 then
          kind[field] = found
          if found == STRING then length[field] = i - start - 2 end
        elseif depth == 2 and container[2] == 2 then
          if found == STRING then nested[field] = (nested[field] or 0) + 1 end
          if not odd[field] then odd[field] = members[2] end
        end
      end
      expecting = 5
      goto continue
    end

    if expecting == 5 then
      if depth == 0 then return refuse("something after the end", i) end
      if byte == 0x2C then
        members[depth] = members[depth] + 1
        expecting = container[depth] == 1 and 3 or 1
        i = i + 1
        goto continue
      end
      members[depth] = members[depth] + 1
      goto close
    end

    -- A key, or the end of an empty object.
    if byte == 0x22 then
      local start = i + 1
      local after, escaped, at = after_string(p, start)
      if not after then return refuse(escaped, at) end
      keys_met = keys_met + 1
      if keys_met > MAX_KEYS then
        return { message = "The body has more than " .. MAX_KEYS .. " keys.", code = "too_many_keys" }
      end
      local key = key_at(text, start, after - 1, escaped)
      local keys = seen[depth]
      if not keys then
        keys = {}
        seen[depth] = keys
      end
      if keys[key] == identity[depth] then
        local name = #key <= 64 and key:match("^[%a_][%w_]*$") or nil
        return { message = "The body names a key of an object twice.", param = name, code = "duplicate_key" }
      end
      keys[key] = identity[depth]
      pending = key
      if depth == 1 then field = wanted[key] and key or nil end
      i = after
      byte = p[i]
      while byte == 0x20 or byte == 0x0A or byte == 0x0D or byte == 0x09 do
        i = i + 1
        byte = p[i]
      end
      if byte ~= 0x3A then return refuse("a key without a colon", i) end
      i = i + 1
      expecting = 1
      goto continue
    end
    if expecting ~= 4 then return refuse("no key where one must be", i) end
    expecting = 5

    ::close::
    if byte ~= (container[depth] == 1 and 0x7D or 0x5D) then
      return refuse("a missing comma or a wrong bracket", i)
    end
    if depth == 2 and field then length[field] = members[2] end
    depth = depth - 1
    i = i + 1
    expecting = 5

    ::continue::
  end
  return nil, kind, length, value, odd, nested
end
