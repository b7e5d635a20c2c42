"""Which backend a session is pinned to, shared by all replicas. Never makes a request wait for long."""
