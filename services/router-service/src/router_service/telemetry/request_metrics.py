"""What each finished request adds to the metrics; knows no record, only labels and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Histogram


@dataclass(slots=True)
class RequestSample:
    """The numbers and bounded names of one finished request."""

    pool: str
    backend: str
    rule: str
    reason: str
    outcome: str
    operation: str
    model: str
    prompt_chars: int
    affinity: str
    seconds: float
    first_token_seconds: float | None
    decode_seconds: float | None
    ledger_ms: Mapping[str, float | None]
    slow: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    attempts: Sequence[tuple[str, str]]
    resumes: Sequence[str]
    stale: int
    trace_id: str
    at: float


class RequestMetrics:
    """Counters and histograms of requests."""

    def __init__(self) -> None:
        self.requests = Counter(names.REQUESTS)
        self.attempts = Counter(names.ATTEMPTS)
        self.retries = Counter(names.RETRIES)
        self.resumes = Counter(names.RESUMES)
        self.stale = Counter(names.STALE)
        self.tokens = Counter(names.TOKENS)
        self.sum_by = Counter(names.TTFT_SUM_BY)
        self.first_tokens = Counter(names.FIRST_TOKENS)
        self.ttft = Histogram(names.TTFT)
        self.component = Histogram(names.TTFT_COMPONENT)
        self.decide = Histogram(names.DECIDE)
        self.loop_lag = Histogram(names.LOOP_LAG)
        self.duration = Histogram(names.GENAI_DURATION)
        self.genai_ttft = Histogram(names.GENAI_TTFT)
        self.per_token = Histogram(names.GENAI_PER_TOKEN)
        self.token_usage = Histogram(names.GENAI_TOKENS)
        self.observe_decide = self.decide.of().observe
        self.observe_lag = self.loop_lag.of().observe

    def everything(self) -> list[Counter | Histogram]:
        """All of them, for the collector."""
        return [value for value in vars(self).values() if isinstance(value, Counter | Histogram)]

    def finished(self, sample: RequestSample) -> None:
        """Count one request."""
        pool, backend, trace_id, at = sample.pool, sample.backend, sample.trace_id, sample.at
        self.requests.add((pool, backend, sample.rule, sample.reason, sample.outcome))
        for index, (name, outcome) in enumerate(sample.attempts):
            self.attempts.add((name, outcome))
            if index:
                self.retries.add((pool, sample.attempts[index - 1][1]))
        for result in sample.resumes:
            self.resumes.add((pool, result))
        if sample.stale:
            self.stale.add((backend,), sample.stale)
        operation, model = sample.operation, sample.model
        error = "" if sample.outcome == "ok" else sample.outcome
        self.duration.of((operation, model, error)).observe(sample.seconds, trace_id, at)
        self._count_tokens(sample)
        first = sample.first_token_seconds
        if first is None:
            return
        self.ttft.of((pool,)).observe(first, trace_id, at)
        self.genai_ttft.of((operation, model)).observe(first)
        by = (
            pool,
            backend,
            sample.rule,
            names.prompt_bucket(sample.prompt_chars),
            sample.affinity,
            "true" if sample.slow else "false",
        )
        self.first_tokens.add(by)
        sums, component = self.sum_by, self.component
        for part, value in sample.ledger_ms.items():
            if value is not None:
                seconds = value / 1e3
                component.of((part, pool)).observe(seconds, trace_id, at)
                sums.add((part, *by), seconds)
        decoded = sample.completion_tokens
        if decoded is not None and decoded > 1 and sample.decode_seconds is not None:
            self.per_token.of((operation, model)).observe(sample.decode_seconds / (decoded - 1))

    def forget(self, backend: str) -> None:
        """Remove the series of a backend that is gone."""
        for counter in (
            self.requests,
            self.attempts,
            self.stale,
            self.tokens,
            self.sum_by,
            self.first_tokens,
        ):
            at = counter.metric.labels.index("backend")
            for labels in [labels for labels in counter.totals if labels[at] == backend]:
                del counter.totals[labels]

    def _count_tokens(self, sample: RequestSample) -> None:
        for kind, genai_type, count in (
            ("prompt", "input", sample.prompt_tokens),
            ("completion", "output", sample.completion_tokens),
        ):
            if count is not None:
                self.tokens.add((sample.pool, sample.backend, kind), count)
                self.token_usage.of((sample.operation, sample.model, genai_type)).observe(count)
