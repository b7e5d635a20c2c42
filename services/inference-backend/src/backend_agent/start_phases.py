"""The phases of an engine's start and how long each took. Knows no engine and no clock."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any


class StartPhase(StrEnum):
    """A phase that the agent can measure. It sees neither the pull of its own image nor what the engine does inside."""

    WEIGHTS = "weights"  # copied to the node, before the agent starts
    LOAD = "load"  # until the engine answers: its image, the weights into memory, compilation
    WARM_UP = "warm_up"


class StartPhases:
    """Durations in seconds of the last start's phases; a phase that was not seen from its beginning is missing."""

    def __init__(self, weights_seconds: float | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.current: StartPhase | None = None
        self._began = 0.0
        if weights_seconds is not None:
            self.seconds[StartPhase.WEIGHTS] = weights_seconds

    def begin(self, phase: StartPhase, now: float) -> None:
        """Begin a phase. A new load forgets the start before, because a restarted engine has its weights already."""
        if phase is self.current:
            return
        if phase is StartPhase.LOAD and StartPhase.WARM_UP in self.seconds:
            self.seconds = {}
        self.current, self._began = phase, now

    def end(self, now: float, *, seen: bool = True) -> None:
        """End the current phase. ``seen`` False: its beginning was missed, so its duration is not known."""
        if self.current is not None and seen:
            self.seconds[self.current] = now - self._began
        self.current = None

    @property
    def total(self) -> float | None:
        """The whole start, None while it runs or if its load was not seen."""
        complete = StartPhase.LOAD in self.seconds and StartPhase.WARM_UP in self.seconds
        return sum(self.seconds.values()) if complete else None

    def status(self) -> dict[str, Any]:
        """Return the phases for the agent's status; seconds are None for a phase that is not known."""
        known = {phase.value: self.seconds.get(phase) for phase in StartPhase}
        seconds = {name: None if took is None else round(took, 3) for name, took in known.items()}
        return {"phase": self.current, "seconds": seconds}


def read_report(path: Path | None) -> float | None:
    """Return the seconds that ``load-weights`` reported, None without a readable report."""
    if path is None:
        return None
    try:
        took = json.loads(path.read_text())["weights_seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(took) if isinstance(took, int | float) and took >= 0 else None


def write_report(path: Path, weights_seconds: float) -> None:
    """Write what :func:`read_report` reads.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(json.dumps({"weights_seconds": round(weights_seconds, 3)}))
