"""Where a request goes and why: pure functions and plain data. No I/O, no clock, no randomness."""
