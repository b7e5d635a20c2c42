"""Replaces vLLM in a pod: the engine simulator behind vLLM's command line."""
