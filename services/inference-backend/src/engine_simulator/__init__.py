"""An engine without a model: vLLM's API, metric names and timing, and faults on command. For tests only."""
