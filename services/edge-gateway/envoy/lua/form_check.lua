-- Reads the text fields of a form (multipart/form-data), and refuses a form that two readers could read differently.
-- Must not know HTTP or paths. The router's `openai_api/form.py` has the same rules, and also checks the UTF-8.

local MAX_PARTS = 64
local MAX_PART_HEAD_BYTES = 2048
local MAX_TEXT_BYTES = 65536
-- A boundary has at most 70 characters. The patterns below try every space, so a longer text costs its square.
local MAX_CONTENT_TYPE_BYTES = 256

-- Texts that vLLM's request models read as a boolean, in any case.
local BOOLEANS = {}
for word in ("true false 1 0 on off t f y n yes no"):gmatch("%w+") do BOOLEANS[word] = true end

-- Returns the boundary in a content type; nil if it is no form, or has another parameter.
local function form_boundary(content_type)
  if not content_type or #content_type > MAX_CONTENT_TYPE_BYTES then return nil end
  local kind, rest = content_type:match("^([^;]-)%s*;%s*(.-)%s*$")
  if not kind or kind:lower() ~= "multipart/form-data" then return nil end
  local name, value = rest:match("^(%w+)=(.+)$")
  if not name or name:lower() ~= "boundary" then return nil end
  value = value:match('^"(.+)"$') or value
  return #value <= 70 and value:match("^[%w'()+_,./:=?-]+$") or nil
end

-- Returns the name of a part, and whether it is a file; nil if its head could be read in another way.
local function read_part_head(head)
  local parameters
  for line in (head .. "\r\n"):gmatch("(.-)\r\n") do
    local name = line:match("^([%w-]+):[^\r\n]*$")
    if not name then return nil end
    if name:lower() == "content-disposition" then
      local kind, after = line:match("^[%w-]+:[ \t]*([%w-]+)(.*)$")
      if parameters or not kind or kind:lower() ~= "form-data" then return nil end
      parameters = after:match("^.*[^ \t]") or "" -- `(.-)[ \t]*$` would try every space as the last one
    end
  end
  local found, is_file
  while parameters and parameters ~= "" do
    local one = parameters:match("^[ \t]*;[ \t]*(.*)$")
    if not one then return nil end
    local name, rest = one:match('^name="([%w_.-]+%[?%]?)"(.*)$')
    if name then
      if found or #name > 66 or not (name:find("^[%w_.-]+$") or name:find("%[%]$")) then return nil end
      found = name
    else
      local file_name
      file_name, rest = one:match('^filename="([^"]*)"(.*)$')
      if not file_name then file_name, rest = one:match('^filename%*=([^;"\\]+)(.*)$') end
      if not file_name or file_name:gsub("\\\\", ""):find("\\", 1, true) then return nil end
      is_file = true
    end
    parameters = rest
  end
  return found, is_file
end

-- Returns the mistake of a form; or nil, its text fields, the names of its files, and the bytes of all texts.
local function read_form(text, boundary)
  local line = "--" .. boundary
  if text:sub(1, #line + 2) ~= line .. "\r\n" then return "The form must begin with its boundary." end
  local delimiter = "\r\n" .. line
  local texts, files, seen, bytes = {}, {}, {}, 0
  local at = #line + 1
  for _ = 1, MAX_PARTS do
    local head = text:sub(at, at + MAX_PART_HEAD_BYTES - 1)
    local gap = head:find("\r\n\r\n", 1, true)
    if not gap then return "The head of a part must end within " .. MAX_PART_HEAD_BYTES .. " bytes." end
    local name, is_file = read_part_head(head:sub(3, gap - 1))
    if not name then return "The head of every part must have one content-disposition: form-data with one name." end
    if seen[name] and name:sub(-2) ~= "[]" then return "The form has a field twice.", name end
    seen[name] = true
    local start = at + gap + 3
    local stop = text:find(delimiter, start, true)
    if not stop then return "The form must end with its boundary." end
    if is_file then
      files[name] = true
    else
      if stop - start > MAX_TEXT_BYTES then
        return "A text of the form may have at most " .. MAX_TEXT_BYTES .. " bytes.", name
      end
      texts[name] = text:sub(start, stop - 1)
      bytes = bytes + stop - start
    end
    at = stop + #delimiter
    local following = text:sub(at, at + 1)
    if following == "--" then
      local rest = text:sub(at + 2, at + 4)
      if rest ~= "" and rest ~= "\r\n" then return "Nothing may follow the end of the form." end
      return nil, texts, files, bytes
    end
    if following ~= "\r\n" then return "A boundary must stand alone in its line." end
  end
  return "The form may have at most " .. MAX_PARTS .. " parts."
end

-- Returns the kind, length and number of every field of `fields`, as check_json does for a JSON body.
local function form_kinds(fields, texts, files)
  local kind, length, value = {}, {}, {}
  for index = 1, #fields do
    local field = fields[index]
    local name, types = field.name, field.types
    local text = texts[name]
    if files[name] then
      kind[name] = "file"
    elseif text then
      length[name] = #text
      if text == "" and field.nullable then
        kind[name] = "null"
      elseif types.integer and text:find("^%-?%d+$") then
        kind[name], value[name] = "integer", tonumber(text)
      elseif types.number and text:find("^[%d.eE+-]+$") and tonumber(text) then
        kind[name], value[name] = "number", tonumber(text)
      elseif types.boolean and BOOLEANS[text:lower()] then
        kind[name] = "boolean"
      else
        kind[name] = "string"
      end
    end
  end
  return kind, length, value
end

-- Checks a form. Returns the mistake, or nil and what check_json returns of a JSON body; last the bytes of all texts.
local function check_form(text, boundary, fields)
  local message, texts, files, bytes = read_form(text, boundary)
  if message then return { message = message, param = type(texts) == "string" and texts or nil, code = "invalid_form" } end
  local kind, length, value = form_kinds(fields, texts, files)
  return nil, kind, length, value, {}, {}, bytes
end
