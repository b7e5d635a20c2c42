"""Explains a change of the time to first token between two windows.

Must not depend on :mod:`observability.rules` or :mod:`observability.dashboards`.
"""
