"""Lists changes in a window and just before it, as far as metrics show them. Reports times, never causes."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from observability.why_ttft.samples import Samples, changes_of, read_samples
from platform_contracts.prometheus import Prometheus

LEAD_SECONDS = 300.0
"""Changes up to this long before the window are listed."""

SAME_SECONDS = 60.0
"""The same change reported by two replicas within this time is listed once."""

NOTABLE_STATES = "stuck|unreachable|draining|throttled|starting|warming"
"""Backend states whose start and end are changes. The states idle, working and saturated only reflect load."""

# (metric, text for a fall to 0, text for a rise to 1)
SWITCHES = (
    ("router_affinity_store_up", "affinity store lost", "affinity store back"),
    ("router_config_last_reload_successful", "configuration on disk refused", "configuration on disk accepted"),
    ("rate_limit_store_up", "budget store lost", "budget store back"),
)  # fmt: skip

ENGINE_LABELS = {
    "version": "engine version",
    "model": "model",
    "model_file": "model file",
    "image": "engine image",
}
"""Labels of `backend_engine_info` whose change is reported, with their names in a sentence."""

_STARTS = {"process_ended": "its process had ended", "was_silent": "it had not answered"}
"""Reasons of an engine's start in `backend_engine_starts_total`. A start of the agent does not restart its engine."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``at`` is the first scrape that shows it, in epoch seconds."""

    at: float
    words: str


def read_changes(prometheus: Prometheus, start: float, end: float) -> list[Change]:
    """Return the changes between two epoch times, in order of time, each once.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    found = [
        *_configurations(prometheus, start, end),
        *_restarts(prometheus, start, end),
        *_engines(prometheus, start, end),
        *_edges(prometheus, start, end),
        *_members(prometheus, start, end),
        *_switches(prometheus, start, end),
        *_states(prometheus, start, end),
        *_alerts(prometheus, start, end),
    ]
    kept: list[Change] = []
    for change in sorted(found, key=lambda one: (one.at, one.words)):
        if not any(one.words == change.words and change.at - one.at < SAME_SECONDS for one in kept):
            kept.append(change)
    return kept


def same_minute(at: float | None, changes: Sequence[Change]) -> list[Change]:
    """Return the changes within a minute of ``at``."""
    return [] if at is None else [change for change in changes if abs(change.at - at) <= 60.0]


def _configurations(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    routers: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for labels, samples in read_samples(prometheus, "router_config_info", start, end):
        routers[labels.get("instance", "")] += [
            (at, labels.get("hash", "")) for at, value in samples if value
        ]
    for seen in routers.values():
        seen.sort()
        for (_, old), (at, new) in itertools.pairwise(seen):
            if new != old:
                yield Change(at, f"router configuration {old[:12]} -> {new[:12]}")


def _restarts(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    for labels, samples in read_samples(prometheus, "process_start_time_seconds", start, end):
        name = labels.get("backend") or labels.get("instance", "")
        for at, old, new in changes_of(samples):
            if abs(new - old) > 1.0:
                yield Change(at, f"{labels.get('job', 'process')} of {name} restarted")
    for labels, samples in read_samples(prometheus, "backend_agent_start_time_seconds", start, end):
        for at, old, new in changes_of(samples):
            if abs(new - old) > 1.0:
                yield Change(at, f"agent of {labels.get('backend', '')} restarted")
    for labels, samples in read_samples(prometheus, "envoy_server_uptime", start, end):
        for at, old, new in changes_of(samples):
            if new < old:
                yield Change(at, f"{labels.get('job', 'edge')} of {labels.get('instance', '')} restarted")


def _engines(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield engines that started, with the reason, and engines with another version, model file or image."""
    for labels, samples in read_samples(prometheus, "backend_engine_starts_total", start, end):
        reason = _STARTS.get(labels.get("reason", ""))
        for at, old, new in changes_of(samples):
            if reason and new > old:
                yield Change(at, f"engine of {labels.get('backend', '')} started again: {reason}")
    engines: dict[str, list[tuple[float, dict[str, str]]]] = defaultdict(list)
    for labels, samples in read_samples(prometheus, "backend_engine_info", start, end):
        engines[labels.get("backend", "")] += [(at, labels) for at, value in samples if value]
    for backend, seen in engines.items():
        seen.sort(key=lambda one: one[0])
        for (_, old_labels), (at, new_labels) in itertools.pairwise(seen):
            for label, what in ENGINE_LABELS.items():
                before, after = old_labels.get(label, ""), new_labels.get(label, "")
                if before != after:
                    yield Change(at, f"{what} of {backend} {before or 'unknown'} -> {after or 'unknown'}")


def _edges(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield changes of the edges' route tables, which contain the keys and rates of clients."""
    for _, samples in read_samples(prometheus, "envoy_http_rds_version", start, end):
        for at, old, new in changes_of(samples):
            if old and new:  # 0: the edge has not read its table yet
                yield Change(at, "edge routes changed (keys, clients or rates)")
    for _, samples in read_samples(prometheus, "envoy_http_rds_update_rejected", start, end):
        for at, old, new in changes_of(samples):
            if new > old:
                yield Change(at, "edge routes on disk refused")


def _members(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield backends and open breakers that appear in or vanish from a router's series while it is scraped."""
    listed = _by_scrape(prometheus, "router_in_flight", start, end)
    opened = _by_scrape(prometheus, 'router_backend_rejected{because="breaker_open"}', start, end)
    for instance, scrapes in listed.items():
        blocked = opened.get(instance, {})
        for earlier, later in itertools.pairwise(sorted(scrapes)):
            for backend in sorted(scrapes[later] - scrapes[earlier]):
                yield Change(later, f"backend {backend} joined")
            for backend in sorted(scrapes[earlier] - scrapes[later]):
                yield Change(later, f"backend {backend} left")
            old, new = blocked.get(earlier, set()), blocked.get(later, set())
            for backend in sorted(new - old):
                yield Change(later, f"breaker of {backend} opened")
            for backend in sorted((old - new) & scrapes[later]):
                yield Change(later, f"breaker of {backend} closed")


def _by_scrape(
    prometheus: Prometheus, selector: str, start: float, end: float
) -> dict[str, dict[float, set[str]]]:
    """Return the backends that have a series, by router and time of the scrape."""
    found: dict[str, dict[float, set[str]]] = defaultdict(lambda: defaultdict(set))
    for labels, samples in read_samples(prometheus, selector, start, end):
        for at, _ in samples:
            found[labels.get("instance", "")][at].add(labels.get("backend", ""))
    return found


def _switches(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    for metric, off, on in SWITCHES:
        for _, samples in read_samples(prometheus, metric, start, end):
            for at, _, new in changes_of(samples):
                yield Change(at, on if new else off)


def _states(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    selector = f'backend_state{{state=~"{NOTABLE_STATES}"}}'
    for labels, samples in read_samples(prometheus, selector, start, end):
        name, state = labels.get("backend", ""), labels["state"]
        for at, _, new in changes_of(samples):
            yield Change(at, f"{name} is {state}" if new else f"{name} is no longer {state}")


def _alerts(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield alerts that start or stop firing. A firing alert has a sample at every evaluation."""
    evaluations = sorted(
        {at for _, samples in read_samples(prometheus, "up", start, end) for at, _ in samples}
    )
    if not evaluations:
        return
    for labels, samples in read_samples(prometheus, 'ALERTS{alertstate="firing"}', start, end):
        name = labels.get("alertname", "")
        where = next((labels[key] for key in ("backend", "pool", "node", "instance") if labels.get(key)), "")
        words = f"alert {name}" + (f" ({where})" if where else "")
        step = _step(samples)
        if samples[0][0] - start > 2 * step:
            yield Change(samples[0][0], f"{words} began")
        if evaluations[-1] - samples[-1][0] > 2 * step:
            yield Change(samples[-1][0], f"{words} ended")


def _step(samples: Samples) -> float:
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(samples)]
    return max(min(gaps, default=15.0), 1.0)
