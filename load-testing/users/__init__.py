"""Locust users: who sends, what they send, and how they read the answer."""
