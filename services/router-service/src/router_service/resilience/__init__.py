"""What bounds failure: breaker, retry budget, waiting line. Pure state; time is an argument (seconds)."""
