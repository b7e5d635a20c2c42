-- Counts the bytes of request bodies that this worker holds for each client and each HTTP/2 connection.
-- Must not know paths or read bodies. The renderer writes HELD before this script: the bytes that one client may have
-- in flight in the whole process, and the largest body. EDGE_WORKERS is the number of workers that share these bytes.
-- In each worker one copy of this script counts HTTP/1 and another counts HTTP/2.
local held = {}
do
  local ffi = require("ffi")
  local workers = tonumber(os.getenv("EDGE_WORKERS") or "") or 1
  local per_client = math.max(HELD.max_body_bytes, math.floor(HELD.max_client_bytes / workers / 2))
  local per_connection = 2 * HELD.max_body_bytes
  local SWEEP_MS = 50

  local by_client, by_connection = {}, {}
  local client_of, connection_of = {}, {} -- by serial number of a lease
  local serial = 0
  local hopeless_until = {} -- by client: until then a sweep is not repeated

  local function add(totals, key, bytes)
    local total = (totals[key] or 0) + bytes
    totals[key] = total > 0 and total or nil
  end

  -- Envoy stores a request's body until the stream ends, and has no callback for a reset stream. The lease ends when
  -- the garbage collector frees the stream's handle.
  local Lease = ffi.metatype("struct { double serial, bytes; }", {
    __gc = function(lease)
      local client, connection = client_of[lease.serial], connection_of[lease.serial]
      if client then add(by_client, client, -lease.bytes) end
      if connection then add(by_connection, connection, -lease.bytes) end
      client_of[lease.serial], connection_of[lease.serial] = nil, nil
    end,
  })
  local leases = setmetatable({}, { __mode = "k" })

  local function over(client, connection, bytes)
    if (by_client[client] or 0) + bytes > per_client then return "client" end
    if connection and (by_connection[connection] or 0) + bytes > per_connection then return "connection" end
  end

  -- Reserve `bytes` for a request. Returns nil, or which limit is exceeded: "client" or "connection".
  function held.take(handle, client, connection, bytes)
    local who = over(client, connection, bytes)
    if who then
      local now = handle:timestamp()
      if now < (hopeless_until[client] or 0) then return who end
      -- One pass runs the handle's finalizer, one frees the handle, one frees the lease.
      for _ = 1, 3 do
        collectgarbage()
        who = over(client, connection, bytes)
        if not who then break end
      end
      if who then
        hopeless_until[client] = now + SWEEP_MS
        return who
      end
      hopeless_until[client] = nil
    end
    serial = serial + 1
    client_of[serial], connection_of[serial] = client, connection
    add(by_client, client, bytes)
    if connection then add(by_connection, connection, bytes) end
    leases[handle] = Lease(serial, bytes)
  end

  -- Set a lease to the size of the received body; 0 for a refused request.
  function held.settle(handle, bytes)
    local lease = leases[handle]
    if not lease then return end
    local more = bytes - lease.bytes
    add(by_client, client_of[lease.serial], more)
    if connection_of[lease.serial] then add(by_connection, connection_of[lease.serial], more) end
    lease.bytes = bytes
  end
end
