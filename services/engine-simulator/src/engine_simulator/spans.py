"""Spans of finished requests in vLLM's format (`--otlp-traces-endpoint`): same name, kind and attributes.

A separate thread sends them as OTLP over HTTP with JSON. If the collector is down, spans are lost and no
request is affected.
"""

import os
import queue
import random
import re
import threading
import time
import urllib.request
from typing import Any

import orjson

from engine_simulator.engine import Sequence

NAME = "llm_request"
SERVICE = "vllm"
_SERVER = 2
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_PROXY = urllib.request.ProxyHandler({})


class SpanExporter:
    """Posts spans to ``endpoint``, the complete URL, as in vLLM."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._opener = urllib.request.build_opener(_NO_PROXY)
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=10_000)
        threading.Thread(target=self._run, name="spans", daemon=True).start()

    def finished(self, sequence: Sequence, request_id: str, traceparent: str) -> None:
        """Send the span of a request if its caller's trace is sampled."""
        match = _TRACEPARENT.fullmatch(traceparent)
        if match is None or not int(match[3], 16) & 1:
            return
        first, last, scheduled = sequence.first_token_at, sequence.last_token_at, sequence.scheduled_at
        if first is None or last is None or scheduled is None:
            return
        arrived = sequence.arrived_at
        now = time.time() - time.monotonic()
        attributes: dict[str, str | int | float] = {
            "gen_ai.latency.time_to_first_token": first - arrived,
            "gen_ai.latency.e2e": last - arrived,
            "gen_ai.latency.time_in_queue": scheduled - arrived,
            "gen_ai.usage.prompt_tokens": len(sequence.prompt_ids),
            "gen_ai.usage.completion_tokens": sequence.generated,
            "gen_ai.latency.time_in_model_prefill": first - scheduled,
            "gen_ai.latency.time_in_model_decode": last - first,
            "gen_ai.latency.time_in_model_inference": last - scheduled,
            "gen_ai.request.id": request_id,
            "gen_ai.request.max_tokens": sequence.max_tokens,
        }
        span: dict[str, Any] = {
            "traceId": match[1],
            "spanId": f"{random.getrandbits(64) or 1:016x}",
            "parentSpanId": match[2],
            "name": NAME,
            "kind": _SERVER,
            "startTimeUnixNano": str(int((now + arrived) * 1e9)),
            "endTimeUnixNano": str(int((now + last) * 1e9)),
            "attributes": [{"key": key, "value": _value(value)} for key, value in attributes.items()],
            "status": {},
        }
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            return

    def _run(self) -> None:
        service = os.environ.get("OTEL_SERVICE_NAME", SERVICE)
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        while True:
            spans = [self._waiting.get()]
            while len(spans) < 500 and not self._waiting.empty():
                spans.append(self._waiting.get())
            scope = {"scope": {"name": "vllm.llm_engine"}, "spans": spans}
            document = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
            request = urllib.request.Request(
                self._endpoint, orjson.dumps(document), {"content-type": "application/json"}, method="POST"
            )
            try:
                self._opener.open(request, timeout=5).close()
            except OSError:
                continue


def _value(value: str | int | float) -> dict[str, str | float]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}
