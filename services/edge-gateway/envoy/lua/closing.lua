-- Ends connections that nobody has authenticated: only an authenticated client keeps an idle connection.
-- The renderer writes DIRECT before this script: whether clients connect to the edge without a proxy.
local close_unauthenticated
do
  -- On HTTP/2 Envoy sends GOAWAY before the response, and some clients then drop the response. So an HTTP/2
  -- connection ends at its fifth such request within a minute. Behind a proxy it carries requests of many clients.
  local REQUESTS, WINDOW_MS, MAX_CONNECTIONS = 5, 60000, 10000
  local began, connections, counts = 0, 0, {}

  function close_unauthenticated(handle)
    local info = handle:streamInfo()
    if info:protocol() ~= "HTTP/2" then return info:drainConnectionUponCompletion() end
    if not DIRECT then return end
    local now = handle:timestamp()
    if now - began >= WINDOW_MS or connections >= MAX_CONNECTIONS then began, connections, counts = now, 0, {} end
    local connection = info:downstreamDirectRemoteAddress()
    local count = counts[connection]
    if not count then connections = connections + 1 end
    counts[connection] = (count or 0) + 1
    if counts[connection] >= REQUESTS then info:drainConnectionUponCompletion() end
  end
end
