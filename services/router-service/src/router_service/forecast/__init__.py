"""Predicts the times to first token of a recorded load on another number of engines.

Reads decision records and the routing rules only; no live state.
"""
