"""Readings of one window that separate causes of a slower part. Stores values and judges nothing."""

from dataclasses import dataclass, field

from observability.why_ttft.spells import Spell


@dataclass(slots=True)
class EngineReadings:
    """Readings of one backend in one window.

    ``token_seconds`` is the mean time between two tokens, None without tokens. ``tokens_per_second`` counts generated
    tokens, and prompt tokens not found in the prefix cache. ``failed_attempts`` counts failed attempts of the router.
    ``states`` contains the states its agent reported, and when.
    """

    token_seconds: float | None = None
    tokens_per_second: float = 0.0
    prompt_tokens_per_request: float | None = None
    preemptions: float = 0.0
    kv_usage: float = 0.0
    failed_attempts: float = 0.0
    states: dict[str, Spell] = field(default_factory=dict)


@dataclass(slots=True)
class Circumstances:
    """Readings of one window. ``loop_lag_seconds`` is the mean timer lag of the router replica with the largest lag.

    ``expected_tokens`` and ``expected_cached`` are the mean prompt tokens, and cached ones, of streams whose session or
    prefix their backend had served before; None without any.
    """

    loop_lag_seconds: float = 0.0
    affinity_store_down: Spell | None = None
    engines: dict[str, EngineReadings] = field(default_factory=dict)
    reasoning_tokens_per_request: float | None = None
    expected_tokens: float | None = None
    expected_cached: float | None = None

    def engine(self, backend: str) -> EngineReadings:
        """Return the readings of a backend, empty ones if it is unknown."""
        return self.engines.get(backend) or EngineReadings()
