"""What else was going on in a window: readings that tell one cause of a slower part from another. Judges nothing."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class EngineReadings:
    """One backend in one window. ``token_seconds`` is the mean time between two tokens, None without any;
    ``tokens_per_second`` what it computed: generated tokens, and prompt tokens that were not in its prefix cache.

    ``failed_attempts`` are the router's calls that brought no answer; ``states`` what its agent concluded.
    """

    token_seconds: float | None = None
    tokens_per_second: float = 0.0
    prompt_tokens_per_request: float | None = None
    preemptions: float = 0.0
    kv_usage: float = 0.0
    failed_attempts: float = 0.0
    states: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Circumstances:
    """One window. ``loop_lag_seconds`` is how late the timers of the latest router replica ran on average."""

    loop_lag_seconds: float = 0.0
    affinity_store_down: bool = False
    engines: dict[str, EngineReadings] = field(default_factory=dict)

    def engine(self, backend: str) -> EngineReadings:
        """The readings of a backend, empty ones where nothing is known."""
        return self.engines.get(backend) or EngineReadings()
