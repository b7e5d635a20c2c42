"""Finds requests without a first token: in flight at a backend without progress, queued, refused or timed out.

No mean contains these requests, so the report lists them first.
"""

from collections import defaultdict
from dataclasses import dataclass

from observability.why_ttft.samples import Samples, changes_of, read_samples, since
from observability.why_ttft.spells import clock
from platform_contracts.prometheus import Prometheus

SILENT_SECONDS = 10.0
SILENT_SAMPLES = 3
"""A backend is silent if its counters did not change for this long and this many scrapes, with requests in flight."""

FRESH_SECONDS = 60.0
"""A series whose last sample is older has ended and is ignored."""

_WAITS = {
    "router_queue_length": "in the router's queue of pool",
    "router_held_requests": "for an engine to start in pool",
}
_FAILED = {"refused": "were refused", "timeout": "timed out"}


@dataclass(frozen=True, slots=True)
class Hanging:
    """``count`` requests at ``where`` (a backend or pool). Times are epoch seconds.

    ``since`` is None if it was before the span read. ``seen`` is the last sample that shows them; of failed requests,
    the first sample that shows the last one.
    """

    kind: str
    count: float
    where: str
    since: float | None
    words: str
    seen: float

    @property
    def when(self) -> str:
        """Return the times in words. Failed requests have ended, so nothing lasts since then."""
        if self.kind in _FAILED:
            first, last = clock(self.since or self.seen), clock(self.seen)
            return f"at {last}" if first == last else f"between {first} and {last}"
        began = f"since {clock(self.since)}" if self.since is not None else "since before these windows"
        return f"{began}, last seen {clock(self.seen)}"


def read_hanging(prometheus: Prometheus, span_start: float, start: float, end: float) -> list[Hanging]:
    """Return requests without a first token at ``end``, largest group first, then failed requests.

    Failures count from ``start``, states from ``span_start``.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    found = [*_at_backends(prometheus, span_start, end)]
    for metric, words in _WAITS.items():
        found += _waiting(prometheus, metric, words, (span_start, end))
    found.sort(key=lambda one: -one.count)
    return [*found, *_failed(prometheus, start, end)]


def _at_backends(prometheus: Prometheus, span_start: float, end: float) -> list[Hanging]:
    in_flight: dict[str, list[Samples]] = defaultdict(list)
    for labels, samples in read_samples(prometheus, "router_in_flight", span_start, end):
        if samples[-1][0] >= end - FRESH_SECONDS:
            in_flight[labels.get("backend", "")].append(samples)
    states = {}
    selector = 'backend_state{state=~"stuck|unreachable"}'
    for labels, samples in read_samples(prometheus, selector, span_start, end):
        if (began := since(samples, 1)) is not None and samples[-1][0] >= end - FRESH_SECONDS:
            known = _known(began, samples, span_start)
            states[labels.get("backend", "")] = (labels["state"], known, samples[-1][0])
    moved = _last_progress(prometheus, span_start, end)
    found = []
    for backend, routers in in_flight.items():
        count = sum(samples[-1][1] for samples in routers)
        seen = min(samples[-1][0] for samples in routers)
        if not count:
            continue
        if backend in states:
            state, began, reported = states[backend]
            verb = "is" if round(count) == 1 else "are"
            words = f"{_requests(count)} {verb} at {backend}, which is {state}"
            found.append(Hanging("held", count, backend, began, words, min(seen, reported)))
            continue
        last = moved.get(backend)
        busy = min((_busy_since(samples) for samples in routers if samples[-1][1]), default=end)
        silent_from = max(last[0], busy) if last is not None else busy
        steps = sum(1 for at, _ in routers[0] if at > silent_from)
        if end - silent_from >= SILENT_SECONDS and steps >= SILENT_SAMPLES:
            verb = "gets" if round(count) == 1 else "get"
            words = f"{_requests(count)} at {backend} {verb} no token, and none finishes there"
            found.append(Hanging("silent", count, backend, silent_from, words, seen))
    return found


def _last_progress(prometheus: Prometheus, span_start: float, end: float) -> dict[str, tuple[float, float]]:
    """Return by backend when it last produced, computed or finished anything: (epoch seconds, value)."""
    last: dict[str, tuple[float, float]] = {}
    for selector in (
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "router_backend_first_tokens_total",
        "router_backend_requests_total",
    ):
        for labels, samples in read_samples(prometheus, selector, span_start, end):
            backend = labels.get("backend", "")
            steps = [at for at, _, _ in changes_of(samples)]
            # A counter that appears has counted something since the scrape before.
            at = steps[-1] if steps else samples[0][0]
            if backend and at > last.get(backend, (0.0, 0.0))[0]:
                last[backend] = (at, samples[-1][1])
    return last


def _busy_since(samples: Samples) -> float:
    """Return since when a router has had requests in flight without a break."""
    began = samples[-1][0]
    for at, value in reversed(samples):
        if not value:
            break
        began = at
    return began


def _waiting(prometheus: Prometheus, metric: str, where: str, span: tuple[float, float]) -> list[Hanging]:
    pools: dict[str, list[Samples]] = defaultdict(list)
    for labels, samples in read_samples(prometheus, metric, *span):
        if samples[-1][1] and samples[-1][0] >= span[1] - FRESH_SECONDS:
            pools[labels.get("pool", "")].append(samples)
    found = []
    for pool, routers in pools.items():
        count = sum(samples[-1][1] for samples in routers)
        began = min(_busy_since(samples) for samples in routers)
        verb = "waits" if round(count) == 1 else "wait"
        words = f"{_requests(count)} {verb} {where} {pool}"
        seen = min(samples[-1][0] for samples in routers)
        found.append(Hanging("queued", count, pool, began, words, seen))
    return found


def _failed(prometheus: Prometheus, start: float, end: float) -> list[Hanging]:
    counts: dict[tuple[str, str], float] = defaultdict(float)
    first: dict[tuple[str, str], float] = {}
    last: dict[tuple[str, str], float] = {}
    selector = 'router_requests_total{outcome=~"refused|timeout"}'
    before = {
        _key(labels): samples[-1][1]
        for labels, samples in read_samples(prometheus, selector, start - FRESH_SECONDS, start)
    }
    for labels, samples in read_samples(prometheus, selector, start, end):
        key = (labels["outcome"], labels.get("pool", ""))
        previous = (start, before.get(_key(labels), 0.0))
        for at, old, new in changes_of([previous, *samples]):
            counts[key] += new - old if new > old else new
            first[key] = min(first.get(key, at), at)
            last[key] = max(last.get(key, at), at)
    return [
        Hanging(
            outcome,
            count,
            pool,
            first[outcome, pool],
            _failed_words(outcome, count, pool),
            last[outcome, pool],
        )
        for (outcome, pool), count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    ]


def _failed_words(outcome: str, count: float, pool: str) -> str:
    where = f" in pool {pool}" if pool else ""
    was = "was" if round(count) == 1 else "were"
    return f"{_requests(count)}{where} {_FAILED[outcome].replace('were', was)}"


def _known(began: float, samples: Samples, span_start: float) -> float | None:
    """Return None for a state that may have begun before the span."""
    return None if began == samples[0][0] and began - span_start < FRESH_SECONDS else began


def _key(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _requests(count: float) -> str:
    return "1 request" if round(count) == 1 else f"{count:.0f} requests"
