"""Updates the metrics for each finished request. Knows only labels and numbers, not records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Gauge, Histogram, Labels

NO_FAILURE = frozenset({"complete", "client_gone", "diverged"})
"""Ends of attempts that are no failure of the backend."""

LEAST_THINKING_SECONDS = 0.001
"""Without a token count of the engine, a stream thought if its answer came this much after its first token."""


@dataclass(slots=True)
class RequestSample:
    """The numbers and bounded names of one finished request."""

    pool: str
    backend: str
    class_name: str
    rule: str
    reason: str
    outcome: str
    operation: str
    model: str
    prompt_chars: int
    affinity: str
    seconds: float
    queue_seconds: float
    first_token_seconds: float | None
    decode_seconds: float | None
    ledger_ms: Mapping[str, float | None]
    slow: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cache_expected: bool
    first_answer_seconds: float | None
    attempts: Sequence[tuple[str, str]]
    resumes: Sequence[str]
    stale: int
    trace_id: str
    at: float


class Totals:
    """Counts of one backend: only a few, because a fleet multiplies their number."""

    __slots__ = ("first_tokens", "requests", "ttft_seconds")

    def __init__(self) -> None:
        self.requests = self.first_tokens = 0
        self.ttft_seconds = 0.0


class RequestMetrics:
    """Counters and histograms of requests."""

    def __init__(self) -> None:
        self._backends: dict[tuple[str, str], Totals] = {}
        self.requests = Counter(names.REQUESTS)
        self.attempts = Counter(names.ATTEMPTS)
        self.failed_attempts = Counter(names.FAILED_ATTEMPTS)
        self.retries = Counter(names.RETRIES)
        self.resumes = Counter(names.RESUMES)
        self.stale = Counter(names.STALE)
        self.tokens = Counter(names.TOKENS)
        self.class_queue_seconds = Counter(names.CLASS_QUEUE_SECONDS)
        self.sum_by = Counter(names.TTFT_SUM_BY)
        self.first_tokens = Counter(names.FIRST_TOKENS)
        self.ttft = Histogram(names.TTFT)
        self.first_answer = Histogram(names.FIRST_ANSWER)
        self.thinking = Counter(names.THINKING)
        self.expected_cache = Counter(names.EXPECTED_CACHE)
        self.component = Histogram(names.TTFT_COMPONENT)
        self.decide = Histogram(names.DECIDE)
        self.loop_lag = Histogram(names.LOOP_LAG)
        self.duration = Histogram(names.GENAI_DURATION)
        self.genai_ttft = Histogram(names.GENAI_TTFT)
        self.per_token = Histogram(names.GENAI_PER_TOKEN)
        self.token_usage = Histogram(names.GENAI_TOKENS)
        self.observe_decide = self.decide.of().observe
        self.observe_lag = self.loop_lag.of().observe

    def everything(self) -> list[Counter | Histogram | Gauge]:
        """Return all counters and histograms, for the collector."""

        def of_backends(read: Callable[[Totals], float]) -> Callable[[], list[tuple[Labels, float]]]:
            return lambda: [(labels, read(totals)) for labels, totals in self._backends.items()]

        return [
            *(value for value in vars(self).values() if isinstance(value, Counter | Histogram)),
            Gauge(names.BACKEND_REQUESTS, of_backends(lambda totals: totals.requests)),
            Gauge(names.BACKEND_FIRST_TOKENS, of_backends(lambda totals: totals.first_tokens)),
            Gauge(names.BACKEND_TTFT, of_backends(lambda totals: totals.ttft_seconds)),
        ]

    def finished(self, sample: RequestSample) -> None:
        """Count one request."""
        pool, backend, trace_id, at = sample.pool, sample.backend, sample.trace_id, sample.at
        self.requests.add((pool, sample.rule, sample.reason, sample.outcome))
        totals = self._backends.get((pool, backend))
        if totals is None:
            totals = Totals()
            if backend:
                self._backends[pool, backend] = totals
        totals.requests += 1
        for index, (name, outcome) in enumerate(sample.attempts):
            self.attempts.add((pool, outcome))
            if outcome not in NO_FAILURE:
                self.failed_attempts.add((name,))
            if index:
                self.retries.add((pool, sample.attempts[index - 1][1]))
        for result in sample.resumes:
            self.resumes.add((pool, result))
        if sample.stale:
            self.stale.add((pool,), sample.stale)
        operation, model = sample.operation, sample.model
        error = "" if sample.outcome == "ok" else sample.outcome
        self.duration.of((operation, model, error)).observe(sample.seconds, trace_id, at)
        self._count_tokens(sample)
        if sample.class_name:
            self.class_queue_seconds.add((pool, sample.class_name), sample.queue_seconds)
        first = sample.first_token_seconds
        if first is None:
            return
        self.ttft.of((pool,)).observe(first, trace_id, at)
        self.genai_ttft.of((operation, model)).observe(first)
        totals.first_tokens += 1
        totals.ttft_seconds += first
        by = (
            pool,
            sample.rule,
            names.prompt_bucket(sample.prompt_chars),
            sample.affinity,
            "true" if sample.slow else "false",
        )
        self.first_tokens.add(by)
        answered = sample.first_answer_seconds
        if answered is not None:
            self.first_answer.of((pool,)).observe(answered, trace_id, at)
            if sample.reasoning_tokens or answered - first > LEAST_THINKING_SECONDS:
                self.thinking.add(by, answered - first)
        if sample.cache_expected and sample.prompt_tokens is not None:
            self.expected_cache.add((pool, "prompt"), sample.prompt_tokens)
            self.expected_cache.add((pool, "cached"), sample.cached_tokens or 0)
        sums, component = self.sum_by, self.component
        for part, value in sample.ledger_ms.items():
            if value is not None:
                seconds = value / 1e3
                component.of((part, pool)).observe(seconds, trace_id, at)
                sums.add((part, *by), seconds)
        decoded = sample.completion_tokens
        if decoded is not None and decoded > 1 and sample.decode_seconds is not None:
            self.per_token.of((operation, model)).observe(sample.decode_seconds / (decoded - 1))

    def forget(self, *backends: str) -> None:
        """Remove the series of backends that are gone."""
        gone = frozenset(backends)
        for labels in [labels for labels in self._backends if labels[1] in gone]:
            del self._backends[labels]
        for name in gone:
            self.failed_attempts.totals.pop((name,), None)

    def _count_tokens(self, sample: RequestSample) -> None:
        pool, operation, model = sample.pool, sample.operation, sample.model
        if sample.cached_tokens:
            self.tokens.add((pool, "cached"), sample.cached_tokens)
        if sample.reasoning_tokens:
            self.tokens.add((pool, "reasoning"), sample.reasoning_tokens)
        if sample.prompt_tokens is not None:
            self.tokens.add((pool, "prompt"), sample.prompt_tokens)
            self.token_usage.of((operation, model, "input")).observe(sample.prompt_tokens)
        if sample.completion_tokens is not None:
            self.tokens.add((pool, "completion"), sample.completion_tokens)
            self.token_usage.of((operation, model, "output")).observe(sample.completion_tokens)
