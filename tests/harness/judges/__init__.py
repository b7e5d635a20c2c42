"""Corpora, oracles and parsers that decide whether a server's output is correct."""
