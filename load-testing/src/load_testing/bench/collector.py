"""A trace collector that counts spans and stores nothing; it runs in the benchmark's process."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SERVER_KIND = 2
"""OTLP's number for a server span, one per incoming request; attempts are client spans."""


class Collector(ThreadingHTTPServer):
    """Accepts OTLP over HTTP in its JSON encoding. ``requests``: server spans so far, one for each traced request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.requests = 0
        self._lock = threading.Lock()

    def take(self, body: dict[str, Any]) -> None:
        """Count the spans of one OTLP request."""
        kinds = [
            span["kind"]
            for resource in body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]
        with self._lock:
            self.requests += kinds.count(SERVER_KIND)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/traces":
            self.send_error(404)
            return
        self.server.take(json.loads(body))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the run prints its own lines."""


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port until the block ends."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()
