"""Command-line commands: check, decide, explain, replay. Each returns its exit code."""
