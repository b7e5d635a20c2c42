"""HTTP in: the inference endpoint, probes, metrics and debug pages. Decides nothing."""
