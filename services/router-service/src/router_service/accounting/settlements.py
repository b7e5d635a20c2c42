"""Settles the token budgets of answers whose end did not reach the edge, at the rate limit service.

The edge reserves an upper bound and settles complete answers itself. Must not delay a request: calls are sent in
gRPC's own threads and nothing waits for them.
"""

import asyncio
from typing import Any

import grpc  # type: ignore[import-untyped]

from router_service.pipeline.ends import reached_engine
from router_service.pipeline.job import Job
from router_service.telemetry.aggregates import Counter
from router_service.telemetry.names import SETTLEMENTS

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
DOMAIN = "edge"

MAX_CALLS = 1000
"""Maximum number of concurrent calls. Further settlements are dropped: those requests keep their reservation."""


def tokens_to_settle(job: Job) -> int | None:
    """Return the tokens of a request that the router must settle: its end did not reach the edge, or it is a background
    response that has finished.

    Returns None if the edge settles the request itself, or if an engine worked on it and did not report its tokens:
    the reservation then stays charged.
    """
    if not (job.cut_off or job.settles) or not job.wants_trailers or not job.client_id:
        return None
    if not reached_engine(job):
        return 0
    report = job.report
    if job.delivered is not None:
        return job.delivered.total(report, len(job.inbound.body))
    if report.prompt_tokens is None or report.completion_tokens is None:
        return None
    return report.prompt_tokens + report.completion_tokens


class Settlements:
    """Reports tokens to the rate limit service at ``address`` (``host:port``)."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        self.counter = Counter(SETTLEMENTS)
        self._timeout_seconds = timeout_seconds
        self._running: set[Any] = set()
        self._channel = grpc.insecure_channel(address)
        self._call: Any = self._channel.unary_unary(METHOD)

    def __call__(self, job: Job) -> None:
        """Settle a finished request, or the background request whose response it returned, if the edge cannot."""
        used = tokens_to_settle(job)
        if used is None:
            return
        if len(self._running) >= MAX_CALLS:
            self.counter.add(("dropped",))
            return
        reserved_by = job.settles or job.request_id
        call = self._call.future(settle_request(job.client_id, reserved_by, used), self._timeout_seconds)
        self._running.add(call)
        loop = asyncio.get_running_loop()
        call.add_done_callback(lambda done: loop.call_soon_threadsafe(self._done, done))

    def _done(self, call: Any) -> None:
        """Count a call that ended. Runs on the event loop, as all code that writes metrics."""
        self._running.discard(call)
        self.counter.add(("failed" if call.exception() is not None else "settled",))

    def close(self) -> None:
        """Wait for the running calls and close the connection. Called from a thread while the event loop runs."""
        for call in list(self._running):
            call.exception()
        self._channel.close()


def settle_request(client: str, request: str, used: int) -> bytes:
    """Return Envoy's ``RateLimitRequest`` (rls.proto, version 3) that settles a reservation.

    Written by hand: the generated classes of Envoy's API take 60 MB.
    """
    entries = (("client", client), ("request", request), ("settle", str(used)))
    descriptor = b"".join(_field(1, _text(1, key) + _text(2, value)) for key, value in entries)
    return _text(1, DOMAIN) + _field(2, descriptor)


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field of protocol buffers."""
    length = len(value)
    size = bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    size.append(length)
    return bytes((number << 3 | 2,)) + bytes(size) + value
