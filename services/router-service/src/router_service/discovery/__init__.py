"""Where a pool's backends are: configured, in DNS, or in Kubernetes. Knows nothing of their health."""
