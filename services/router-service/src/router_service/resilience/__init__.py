"""Limits the effect of failures: breaker, retry budget, queue. Pure state; the time (seconds) is an argument."""
