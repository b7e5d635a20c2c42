"""The backend that each session is pinned to, shared by all replicas. Never delays a request for long."""
