"""Values for the pages, computed from records and series. Pure: reads no source and knows no template."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from observability.why_ttft.causes import Cause

PARTS = {
    "edge": "edge gateway",
    "waiting_for_start": "start of an engine",
    "router_queue": "router queue",
    "router": "router",
    "earlier_attempts": "failed attempts",
    "connect": "connection",
    "network": "network",
    "engine_queue": "engine queue",
    "prefill": "prefill",
    "first_byte_wait": "engine until its first byte",
    "relay": "relay",
    "unexplained": "unexplained",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart: offset and width in percent of the chart, and its milliseconds."""

    name: str
    offset: float
    width: float
    ms: float


@dataclass(slots=True)
class Backend:
    """One backend in the view of all routers. ``states`` counts the reported states, so that a disagreement is
    visible.
    """

    name: str
    pool: str
    in_flight: int = 0
    breakers_open: int = 0
    states: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> str:
        return ", ".join(
            f"{state} ({n} routers)" if len(self.states) > 1 else state for state, n in self.states.items()
        )

    @property
    def good(self) -> bool:
        return not self.breakers_open and set(self.states) <= {
            "idle",
            "working",
            "unknown",
            "saturated",
            "ready",
        }


def backends(answers: Iterable[Any]) -> list[Backend]:
    """Merge what several routers report of their backends."""
    found: dict[tuple[str, str], Backend] = {}
    for answer in answers:
        for one in answer.get("backends", []):
            backend = found.setdefault((one["pool"], one["name"]), Backend(one["name"], one["pool"]))
            backend.in_flight += one["in_flight"]
            backend.breakers_open += bool(one["breaker_open"])
            backend.states[str(one.get("unusable") or one.get("state") or "unknown")] += 1
    return sorted(found.values(), key=lambda one: (one.pool, one.name))


def newest(
    records: Iterable[dict[str, Any]], limit: int, slow_ms: float | None = None
) -> list[dict[str, Any]]:
    """Merge the records of several routers, the newest first; each request once."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        if slow_ms is None or (record.get("first_token_ms") or record.get("total_ms") or 0.0) >= slow_ms:
            found[record["request_id"]] = record
    return sorted(found.values(), key=lambda one: str(one["time"]), reverse=True)[:limit]


def waterfall(record: Mapping[str, Any]) -> list[Bar]:
    """Return the parts of the time to first token one after the other, then decoding."""
    parts = [
        (PARTS.get(n, n), ms) for n, ms in (record.get("ttft_ledger_ms") or {}).items() if ms is not None
    ]
    if not parts:
        return []
    if record.get("decode_ms") is not None:
        parts.append(("decode", record["decode_ms"]))
    whole = sum(max(0.0, ms) for _, ms in parts) or 1.0
    bars, at = [], 0.0
    for name, ms in parts:
        width = max(0.0, ms)
        bars.append(Bar(name, 100 * at / whole, 100 * width / whole, ms))
        at += width
    return bars


def cause_bars(found: Sequence[Cause]) -> list[Bar]:
    """Return one bar for each cause of at least 0.05 ms; the largest is as wide as the picture."""
    told = [cause for cause in found if abs(cause.seconds) >= 0.00005]
    most = max((abs(cause.seconds) for cause in told), default=1.0)
    return [Bar(c.words, 0.0, 100 * abs(c.seconds) / most, c.seconds * 1e3) for c in told]


def verdicts(
    found: Iterable[Mapping[str, Any]], start: float, end: float, step: float
) -> list[dict[str, Any]]:
    """Return the latest verdict of each pool within the last minute, of series between ``start`` and ``end``.

    ``since`` is None if it may have begun before ``start``. ``ended`` is None if the verdict is the current one.
    """
    current: dict[str, Mapping[str, Any]] = {}
    for series in found:
        pool, last = series["metric"].get("pool", ""), float(series["values"][-1][0])
        if end - last < 60 and (pool not in current or last > float(current[pool]["values"][-1][0])):
            current[pool] = series
    rows = []
    for _, series in sorted(current.items()):
        began, last = run_start(series["values"], step), float(series["values"][-1][0])
        since = began if began is None or began > start + step else None
        rows.append({**series["metric"], "since": since, "ended": last if end - last > 2 * step else None})
    return rows


def run_start(points: Sequence[Sequence[Any]], step: float) -> float | None:
    """Return when the last uninterrupted run of samples began."""
    began = None
    last = None
    for at, _ in points:
        if last is None or at - last > 1.5 * step:
            began = float(at)
        last = at
    return began


def alert_name(alert: Mapping[str, Any]) -> str:
    """Return an alert's name, with the pool, backend, node or instance it is about."""
    labels = alert["labels"]
    where = next((labels[key] for key in ("pool", "backend", "node", "instance") if labels.get(key)), "")
    return str(labels["alertname"]) + (f" ({where})" if where else "")


def seconds_of(record: Mapping[str, Any]) -> float:
    """Return when a request was received, in epoch seconds."""
    return datetime.fromisoformat(str(record["time"]).replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart in a box of 1000 by 200: the paths of its pieces and the value at the top."""

    paths: list[str]
    most: float


def line(points: Sequence[Sequence[Any]], start: float, end: float, step: float) -> Line:
    """Return a line that is interrupted where samples are missing."""
    known = [(float(t), float(v)) for t, v in points if float(v) == float(v)]
    most = max((v for _, v in known), default=0.0) or 1.0
    paths: list[str] = []
    last = None
    for at, value in known:
        x, y = 1000 * (at - start) / (end - start), 195 - 190 * value / most
        if last is None or at - last > 1.5 * step:
            paths.append(f"M{x:.1f} {y:.1f}h1")
        else:
            paths[-1] += f"L{x:.1f} {y:.1f}"
        last = at
    return Line(paths, most)
