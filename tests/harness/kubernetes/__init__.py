"""Helm, kubectl, a small API server, and rendered charts as fields."""
