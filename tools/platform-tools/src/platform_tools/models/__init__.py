"""Programs for vLLM's environment: convert weights, print vLLM's arguments."""
