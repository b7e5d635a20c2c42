"""The agent's metrics and its log. Measures nothing itself."""

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Gauge

from backend_agent.judgement import State


class Metrics:
    """Every metric of the agent, in a registry of its own."""

    def __init__(self, backend: str) -> None:
        self.registry = CollectorRegistry()
        self._backend = backend
        self._state = Gauge(
            "backend_state",
            "1 for the state the backend is in, 0 for all others.",
            ["backend", "state"],
            registry=self.registry,
        )
        warmup = Gauge(
            "backend_warmup_seconds",
            "How long the last warm-up took, from the engine's first answer to ready.",
            ["backend"],
            registry=self.registry,
        )
        self.warmup_seconds = warmup.labels(backend)

    def show_state(self, current: State) -> None:
        """Make exactly one state 1."""
        for state in State:
            self._state.labels(self._backend, state.value).set(state is current)


def configure_log() -> None:
    """Log JSON lines to stdout."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            lambda _, __, event: {"service": "backend-agent", **event},
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
