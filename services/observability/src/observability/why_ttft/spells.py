"""Times within a window during which a state was reported, and their words. Pure.

A state of a past sample is never described as present: the words contain when it began, and when it ended or that it
lasted to the end of the window.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

FRESH_SECONDS = 60.0
"""A series whose last sample is older has ended, and so has its state. One that begins later is new."""


@dataclass(frozen=True, slots=True)
class Spell:
    """When a state held, in epoch seconds.

    ``began``: None if it held at the beginning of the window. ``ended``: None if it held at the end of the window.
    ``seconds`` is the total, if the state came several times.
    """

    began: float | None
    ended: float | None
    seconds: float


def spell(
    series: Iterable[Sequence[tuple[float, float]]], holds: Callable[[float], bool], start: float, end: float
) -> Spell | None:
    """Return when the state held between two epoch times in any of ``series`` (time, value), None if never."""
    spans: list[tuple[float, float]] = []
    at_start = at_end = False
    for samples in series:
        began: float | None = None
        for at, value in samples:
            if holds(value) and began is None:
                first = at == samples[0][0] and at < start + FRESH_SECONDS
                began = start if first else at
                at_start = at_start or first
            elif not holds(value) and began is not None:
                spans.append((began, at))
                began = None
        if began is not None:
            lasts = samples[-1][0] >= end - FRESH_SECONDS
            at_end = at_end or lasts
            spans.append((began, end if lasts else samples[-1][0]))
    if not spans:
        return None
    earliest, latest = min(span[0] for span in spans), max(span[1] for span in spans)
    return Spell(None if at_start else earliest, None if at_end else latest, _covered(spans))


def spell_words(one: Spell, about: str = "") -> str:
    """Return when it was, such as "for 4 s until 12:00:11"; times are UTC. ``about`` qualifies the duration."""
    if one.ended is not None:
        return f"for {about}{_duration(one.seconds)} until {clock(one.ended)}"
    if one.began is not None:
        return f"from {clock(one.began)} to the end of the window"
    return "at the beginning and at the end of the window"


def _covered(spans: list[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def clock(at: float) -> str:
    """Return an epoch time as hours, minutes and seconds of UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(at))
