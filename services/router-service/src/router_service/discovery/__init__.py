"""Lists the backends of a pool: from the configuration, DNS or Kubernetes. Must not depend on the backends' health."""
