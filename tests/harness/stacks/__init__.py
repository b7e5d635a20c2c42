"""Whole stacks for tests, faults on them, and their own reports."""
