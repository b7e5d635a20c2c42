"""OpenAI's wire format: paths, errors, event streams. Knows no backend, no rule, no connection."""
