"""Locust users: schedule, prompts, and the HTTP client."""
