"""Generators of references that need more than one service."""
