"""Commands that people run: check, decide, explain, replay. Each returns its exit code."""
