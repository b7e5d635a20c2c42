"""What a recorded load would have met on another number of engines: records in, times to the first token out.

Reads decision records and the routing rules only; no live state.
"""
