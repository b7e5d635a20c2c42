"""The local stack: its parts, and how they are installed, started, supervised and shown. Routes nothing."""
