"""The routing decision and its reasons: pure functions and plain data. No I/O, no clock, no randomness."""
