"""Accounting for finished requests: record, log line, metrics, spans, ledger and verdict. Never on the request path."""
