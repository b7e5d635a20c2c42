"""Definitions shared by several parts of the platform. Must not import any of these parts."""
