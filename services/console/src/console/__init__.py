"""Web pages with data from routers and Prometheus. Reads only; no request of a client waits for it."""
