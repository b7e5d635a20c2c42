"""The engine's state with vLLM's metric names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine_simulator.engine import BLOCK_TOKENS, Engine, Sequence

_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_GAP = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)


class EngineMetrics:
    """All metrics of vLLM 0.32 that this project reads."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._labels = (model, "0")
        self._registry = CollectorRegistry()
        self._registry.register(self)

        def histogram(name: str, help_: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            made = Histogram(
                f"vllm:{name}", help_, ["model_name", "engine"], buckets=buckets, registry=self._registry
            )
            made.labels(*self._labels)
            return made

        self._ttft = histogram("time_to_first_token_seconds", "Time to first token.")
        self._gap = histogram("inter_token_latency_seconds", "Time between tokens.", _GAP)
        self._e2e = histogram("e2e_request_latency_seconds", "Whole request.")
        self._queue = histogram("request_queue_time_seconds", "Time in the queue.")
        self._prefill = histogram("request_prefill_time_seconds", "Time from scheduling to the first token.")
        self._decode = histogram("request_decode_time_seconds", "Time from the first token to the last.")
        self._prompt = histogram("request_prompt_tokens", "Prompt tokens.", (1, 10, 100, 1000, 10000))
        self._generation = histogram("request_generation_tokens", "Completion tokens.", (1, 10, 100, 1000))
        info = Gauge(
            "vllm:cache_config_info",
            "KV cache.",
            ["block_size", "num_gpu_blocks", "engine"],
            registry=self._registry,
        )
        blocks = engine.capacity.kv_tokens // BLOCK_TOKENS
        info.labels(str(BLOCK_TOKENS), str(blocks), "0").set(1)
        self.http = Counter(
            "http_requests", "HTTP requests.", ["handler", "method", "status"], registry=self._registry
        )
        engine.on_finished = self._finished

    def text(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)

    def _finished(self, sequence: Sequence) -> None:
        first, last, scheduled = sequence.first_token_at, sequence.last_token_at, sequence.scheduled_at
        if first is None or last is None or scheduled is None:
            return
        labels = self._labels
        self._ttft.labels(*labels).observe(first - sequence.arrived_at)
        self._queue.labels(*labels).observe(scheduled - sequence.arrived_at)
        self._prefill.labels(*labels).observe(first - scheduled)
        self._decode.labels(*labels).observe(last - first)
        self._e2e.labels(*labels).observe(last - sequence.arrived_at)
        self._prompt.labels(*labels).observe(len(sequence.prompt_ids))
        self._generation.labels(*labels).observe(sequence.generated)
        gaps = sequence.generated - 1
        for _ in range(gaps):
            self._gap.labels(*labels).observe((last - first) / gaps)

    def collect(self) -> list[Metric]:
        """Yield the metrics that are read from the engine at scrape time (called by prometheus_client)."""
        engine, counts = self._engine, self._engine.counts
        names = ["model_name", "engine"]
        found: list[Metric] = []
        for name, help_, value in (
            ("num_requests_running", "Requests in execution batches.", len(engine.running)),
            ("num_requests_waiting", "Requests waiting.", len(engine.waiting)),
            ("kv_cache_usage_perc", "KV cache in use, 0 to 1.", engine.kv_usage),
        ):
            gauge = GaugeMetricFamily(f"vllm:{name}", help_, labels=names)
            gauge.add_metric(self._labels, value)
            found.append(gauge)
        for name, help_, value in (
            ("prompt_tokens", "Prefill tokens.", counts.prompt_tokens),
            ("generation_tokens", "Generated tokens.", counts.generation_tokens),
            ("num_preemptions", "Preemptions.", counts.preemptions),
            ("prefix_cache_queries", "Prefix cache queries, in tokens.", counts.prefix_queries),
            ("prefix_cache_hits", "Prefix cache hits, in tokens.", counts.prefix_hits),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", help_, labels=names)
            counter.add_metric(self._labels, value)
            found.append(counter)
        success = CounterMetricFamily(
            "vllm:request_success", "Finished requests.", labels=[*names, "finished_reason"]
        )
        for reason in ("stop", "length", "abort"):
            success.add_metric((*self._labels, reason), counts.finished.get(reason, 0))
        found.append(success)
        return found
