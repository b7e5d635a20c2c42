"""OpenAI's wire format: paths, errors, event streams. Must not know backends, rules or connections."""
