"""Stands in for vLLM in a pod: the engine simulator behind vLLM's own command line."""
