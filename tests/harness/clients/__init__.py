"""Clients for tests: raw sockets, paced load, measured streams."""
