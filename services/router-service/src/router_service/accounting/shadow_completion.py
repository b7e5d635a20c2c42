"""Completes a finished copy of a request: its record, log line and metrics, all apart from those of requests."""

from collections.abc import Callable

from router_service.accounting.cache_homes import CacheHomes
from router_service.accounting.completion import Recorder, failed, log_text
from router_service.pipeline.job import Job
from router_service.records.ring import Ring
from router_service.telemetry.shadow_metrics import ShadowMetrics

RING_RECORDS = 1000
RING_BYTES = 4 * 1024 * 1024

_ENDED = b'{"level":"info","service":"router-service","event":"shadow",'
_FAILED = _ENDED.replace(b"info", b"warning")


class ShadowCompletion(Recorder):
    """Called once per copy, after its end. ``ring`` has the latest records of copies, ``metrics`` their numbers."""

    def __init__(self, write_line: Callable[[bytes], None], cache_seconds: float) -> None:
        super().__init__(CacheHomes(cache_seconds))
        self.ring = Ring(RING_RECORDS, RING_BYTES)
        self.metrics = ShadowMetrics()
        self._write_line = write_line

    def reconfigure(self, cache_seconds: float) -> None:
        """Set how long a prefix cache is expected."""
        self.homes.lifetime_seconds = cache_seconds

    def __call__(self, job: Job) -> None:
        record = self.record(job)
        pool = record.decision.pool if record.decision is not None else ""
        self.metrics.finished(pool, record.outcome or "", record.first_token_ms)
        text = log_text(record)
        self.ring.add(record, text)
        self._write_line((_FAILED if failed(record.outcome) else _ENDED) + text[1:] + b"\n")
