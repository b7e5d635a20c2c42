"""Outcomes of requests as observed by a client, and the arrival schedule. Must not depend on a tool or a service."""
