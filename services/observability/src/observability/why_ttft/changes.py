"""Lists changes in a window and just before it, as far as metrics show them. Reports times, never causes.

Most changes show as two different samples. Their time is the later scrape, or the exact time if the component
exports it.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from observability.why_ttft.samples import Samples, changes_of, read_samples
from observability.why_ttft.windows import ask
from platform_contracts.prometheus import Prometheus

LEAD_SECONDS = 300.0
"""Changes up to this long before the window are listed."""

LOOK_BACK_SECONDS = 60.0
"""Samples are read from this long before the first change, so that it differs from a sample before it."""

SAME_SECONDS = 60.0
"""The same change reported by two replicas within this time is listed once."""

SAME_SCRAPE_SECONDS = 15.0
"""The same change reported by one component twice within this time is listed once."""

UPTIME_LAG_SECONDS = 15.0
"""Envoy updates its uptime every 5 s, later if it is busy: the start time that it shows moves by as much."""

MOST_RULES = 8
"""Names of rules that a sentence lists; the rest is counted."""

NOTABLE_STATES = "stuck|unreachable|draining|throttled|starting|warming"
"""Backend states whose start and end are changes. The states idle, working and saturated only reflect load."""

# (metric, text for a fall to 0, text for a rise to 1)
SWITCHES = (
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


_NOTICED = {
    ("backend_joined", None): "backend {backend} joined",
    ("backend_left", None): "backend {backend} left",
    ("backend_state", "ready"): "{backend} is ready again",
    ("backend_state", None): "{backend} is {after}",
    ("breaker", "open"): "breaker of {backend} opened",
    ("breaker", "closed"): "breaker of {backend} closed",
    ("rollout", None): "a rollout sends {after} % of its rule's requests to pool {pool}",
    ("affinity_store", "lost"): "affinity store lost",
    ("affinity_store", "up"): "affinity store back",
}
"""Sentence for each change in `router_change_time_seconds`, by its kind and the value after it (None: any)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``at`` is its time or the first scrape that shows it, in epoch seconds."""

    at: float
    words: str
    reporter: str = field(default="", compare=False, repr=False)
    """The component whose metric shows it; "" for one that only one component can show."""


def read_changes(prometheus: Prometheus, start: float, end: float) -> list[Change]:
    """Return the changes between two epoch times, in order of time, each once.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    first, start = start, start - LOOK_BACK_SECONDS
    found = [
        *_configurations(prometheus, start, end),
        *_noticed(prometheus, start, end),
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
        if not any(_is_same(one, change) for one in kept):
            kept.append(change)
    return [change for change in kept if change.at >= first]


def _is_same(one: Change, later: Change) -> bool:
    """Return whether both report the same change: of two replicas, or by its exact time and by a scrape."""
    within = SAME_SECONDS if one.reporter != later.reporter else SAME_SCRAPE_SECONDS
    return one.words == later.words and later.at - one.at < within


def same_minute(at: float | None, changes: Sequence[Change]) -> list[Change]:
    """Return the changes within a minute of ``at``."""
    return [] if at is None else [change for change in changes if abs(change.at - at) <= 60.0]


class _Times:
    """Exact times that components export as a gauge, by one label. ``unit`` is the gauge's, in seconds."""

    def __init__(
        self, found: Iterable[tuple[dict[str, str], Samples]], label: str, unit: float = 1.0
    ) -> None:
        self._times: dict[str, set[float]] = defaultdict(set)
        for labels, samples in found:
            self._times[labels.get(label, "")] |= {value * unit for _, value in samples}

    def exact(self, key: str, earlier: float, at: float) -> float:
        """Return the last exact time between two scrapes, or the second scrape if none is known."""
        return max((time for time in self._times[key] if earlier - 1.0 <= time <= at), default=at)


def _configurations(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    noticed = 'router_change_time_seconds{kind="configuration"}'
    times = _Times(read_samples(prometheus, noticed, start, end), "instance")
    rules = _values_by_scrape(prometheus, "router_rule_info", "rule", start, end)
    routers = _values_by_scrape(prometheus, "router_config_info", "", start, end)
    for instance, scrapes in routers.items():
        before = _before_first(routers, min(scrapes))
        seen = [*before, *((instance, at) for at in sorted(scrapes))]
        for (other, earlier), (_, at) in itertools.pairwise(seen):
            old, new = routers[other][earlier], scrapes[at]
            if new != old:
                known = rules.get(other, {}).get(earlier, {}), rules.get(instance, {}).get(at, {})
                words = f"router configuration {old['hash'][:12]} -> {new['hash'][:12]}"
                yield Change(times.exact(instance, earlier, at), words + _rules_moved(*known), instance)


def _before_first(routers: Mapping[str, Mapping[float, object]], first: float) -> list[tuple[str, float]]:
    """Return the last scrape of any router before a new router's first one, as its instance and time.

    Empty for routers that were there when the samples begin: rollouts and restarts on Kubernetes give every router a
    new name, and then its predecessor had the configuration before it.
    """
    if first - min(min(scrapes) for scrapes in routers.values()) < LOOK_BACK_SECONDS:
        return []
    at, instance = max((at, name) for name, scrapes in routers.items() for at in scrapes if at < first)
    return [(instance, at)]


def _values_by_scrape(
    prometheus: Prometheus, metric: str, label: str, start: float, end: float
) -> dict[str, dict[float, dict[str, str]]]:
    """Return the label `hash` by instance, time of the scrape and ``label`` ("": the key is `hash`)."""
    found: dict[str, dict[float, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for labels, samples in read_samples(prometheus, metric, start, end):
        for at, value in samples:
            if value:
                found[labels.get("instance", "")][at][labels.get(label, "hash")] = labels.get("hash", "")
    return found


def _rules_moved(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return which rules differ, "" if none does or if the rules are not known."""
    if not old and not new:
        return ""
    moved = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
    told = [f"{what} {_some(names)}" for what, names in moved.items() if names]
    return f", rules {'; '.join(told)}" if told else ", no rule added, removed or changed"


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_RULES
    return ", ".join(names[:MOST_RULES]) + (f" and {more} more" if more > 0 else "")


def _noticed(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield the changes whose exact time the routers export."""
    for labels, samples in read_samples(prometheus, "router_change_time_seconds", start, end):
        kind, after = labels.get("kind", ""), labels.get("after", "")
        words = _NOTICED.get((kind, after)) or _NOTICED.get((kind, None))
        for at in sorted({value for _, value in samples if start <= value <= end}):
            if words:
                text = words.format(
                    backend=labels.get("backend", ""),
                    pool=labels.get("pool", ""),
                    after=after.replace("_", " "),
                )
                yield Change(at, text, labels.get("instance", ""))


def _restarts(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield processes that started again, and new ones beside or after others of their job."""
    jobs: dict[str, list[tuple[str, Samples, float]]] = defaultdict(list)
    for metric, same in (("process_start_time_seconds", 1.0), ("envoy_server_uptime", UPTIME_LAG_SECONDS)):
        for labels, samples in read_samples(prometheus, metric, start, end):
            name = labels.get("backend") or labels.get("instance", "")
            if metric == "envoy_server_uptime":
                samples = [(at, at - uptime) for at, uptime in samples]
            jobs[labels.get("job", "process")].append((name, samples, same))
    for job, processes in jobs.items():
        known = min(samples[0][0] for _, samples, _ in processes)
        for name, samples, same in processes:
            yield from _started(samples, f"{job} of {name} restarted", same)
            at, began = samples[0]
            if known < began <= at:  # A rollout on Kubernetes gives every pod a new name.
                yield Change(began, f"{job} of {name} started")
    for labels, samples in read_samples(prometheus, "backend_agent_start_time_seconds", start, end):
        yield from _started(samples, f"agent of {labels.get('backend', '')} restarted")


def _started(samples: Samples, words: str, same: float = 1.0) -> Iterator[Change]:
    """Yield a change for each new start time, at that time if it lies between the scrapes. ``same``: most seconds
    between two readings of one start time, unless the process became younger."""
    for (earlier, old), (at, new) in itertools.pairwise(samples):
        if abs(new - old) > same or at - new < earlier - old:
            yield Change(new if earlier <= new <= at else at, words)


def _engines(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield engines that started, with the reason, and engines with another version, model file or image."""
    times = _Times(read_samples(prometheus, "backend_engine_found_time_seconds", start, end), "backend")
    for labels, samples in read_samples(prometheus, "backend_engine_starts_total", start, end):
        reason, backend = _STARTS.get(labels.get("reason", "")), labels.get("backend", "")
        for (earlier, old), (at, new) in itertools.pairwise(samples):
            if reason and new > old:
                yield Change(
                    times.exact(backend, earlier, at), f"engine of {backend} started again: {reason}"
                )
    engines: dict[str, list[tuple[float, dict[str, str]]]] = defaultdict(list)
    for labels, samples in read_samples(prometheus, "backend_engine_info", start, end):
        engines[labels.get("backend", "")] += [(at, labels) for at, value in samples if value]
    for backend, seen in engines.items():
        seen.sort(key=lambda one: one[0])
        for (earlier, old_labels), (at, new_labels) in itertools.pairwise(seen):
            for label, what in ENGINE_LABELS.items():
                before, after = old_labels.get(label, ""), new_labels.get(label, "")
                if before != after:
                    words = f"{what} of {backend} {before or 'unknown'} -> {after or 'unknown'}"
                    yield Change(times.exact(backend, earlier, at), words)


def _edges(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield changes of the edges' route tables, which contain the keys and rates of clients."""
    words = "edge routes changed (keys, clients or rates)"
    reloads = {
        (labels.get("instance", ""), at): count
        for labels, samples in read_samples(prometheus, "envoy_http_rds_config_reload", start, end)
        for at, count in samples
    }
    times = list(read_samples(prometheus, "envoy_http_rds_config_reload_time_ms", start, end))
    for labels, samples in times:
        instance = labels.get("instance", "")
        # An edge reads its first table at its start. A later one may be older than the first scrape of this edge.
        later = {value / 1e3 for at, value in samples if reloads.get((instance, at), 0) > 1}
        yield from (Change(at, words, instance) for at in sorted(later) if start <= at <= end)
    known = _Times(times, "instance", 1e-3)
    for labels, samples in read_samples(prometheus, "envoy_http_rds_version", start, end):
        instance = labels.get("instance", "")
        for (earlier, old), (at, new) in itertools.pairwise(samples):
            if old and new and new != old:  # 0: the edge has not read its table yet
                yield Change(known.exact(instance, earlier, at), words, instance)
    for labels, samples in read_samples(prometheus, "envoy_http_rds_update_rejected", start, end):
        for at, old, new in changes_of(samples):
            if new > old:
                yield Change(at, "edge routes on disk refused", labels.get("instance", ""))


def _members(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield backends and open breakers that appear in or vanish from a router's series while it is scraped."""
    listed = _by_scrape(prometheus, "router_in_flight", start, end)
    opened = _by_scrape(prometheus, 'router_backend_rejected{because="breaker_open"}', start, end)
    for instance, scrapes in listed.items():
        blocked = opened.get(instance, {})
        for earlier, later in itertools.pairwise(sorted(scrapes)):
            for backend in sorted(scrapes[later] - scrapes[earlier]):
                yield Change(later, f"backend {backend} joined", instance)
            for backend in sorted(scrapes[earlier] - scrapes[later]):
                yield Change(later, f"backend {backend} left", instance)
            old, new = blocked.get(earlier, set()), blocked.get(later, set())
            for backend in sorted(new - old):
                yield Change(later, f"breaker of {backend} opened", instance)
            for backend in sorted((old - new) & scrapes[later]):
                yield Change(later, f"breaker of {backend} closed", instance)


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
        for labels, samples in read_samples(prometheus, metric, start, end):
            for at, _, new in changes_of(samples):
                yield Change(at, on if new else off, labels.get("instance", ""))


def _states(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    times = _Times(read_samples(prometheus, "backend_state_since_seconds", start, end), "backend")
    selector = f'backend_state{{state=~"{NOTABLE_STATES}"}}'
    for labels, samples in read_samples(prometheus, selector, start, end):
        name, state = labels.get("backend", ""), labels["state"]
        for (earlier, old), (at, new) in itertools.pairwise(samples):
            if new != old:
                words = f"{name} is {state}" if new else f"{name} is no longer {state}"
                yield Change(times.exact(name, earlier, at), words)


def _alerts(prometheus: Prometheus, start: float, end: float) -> Iterator[Change]:
    """Yield alerts that start or stop firing. A firing alert has a sample at every evaluation."""
    firing = 'ALERTS{alertstate="firing"}'
    at_start, at_end = (
        {_identity(series.labels) for series in ask(prometheus, firing, moment)} for moment in (start, end)
    )
    for labels, samples in read_samples(prometheus, firing, start, end):
        name = labels.get("alertname", "")
        where = next((labels[key] for key in ("backend", "pool", "node", "instance") if labels.get(key)), "")
        words = f"alert {name}" + (f" ({where})" if where else "")
        step = _step(samples)
        if _identity(labels) not in at_start:
            yield Change(samples[0][0], f"{words} began")
        for (earlier, _), (at, _) in itertools.pairwise(samples):
            if at - earlier > 2.5 * step:
                yield from (Change(earlier + step, f"{words} ended"), Change(at, f"{words} began"))
        if _identity(labels) not in at_end:
            yield Change(min(samples[-1][0] + step, end), f"{words} ended")


def _identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name != "__name__")


def _step(samples: Samples) -> float:
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(samples)]
    return max(min(gaps, default=5.0), 1.0)
