"""Shared test support: free ports, and real processes that end with the test."""
