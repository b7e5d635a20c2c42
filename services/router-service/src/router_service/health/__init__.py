"""Active probes: how each backend says it is. Knows no request and decides nothing."""
