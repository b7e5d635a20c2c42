"""The pods of `helm test`: each waits for its first response, prints the last result, and remains after a
failure.

Scripts run as they are in the manifests, with Service addresses replaced by local ones and a shorter limit than 30 s.
"""

import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, read
from harness.kubernetes.tools import tool
from harness.ports import free_port

pytestmark = [pytest.mark.service, pytest.mark.untimed]

TESTED = [chart for chart in CHARTS if (HELM / chart / "templates/tests.yaml").exists()]
BY_HTTP = [chart for chart in TESTED if chart not in ("llm-redis", "rate-limit-service", "edge-gateway")]
ANSWERS = {
    "router-service": b'{"data": [{"id": "m"}]}',
    "inference-backend": b'{"choices": [{"text": " Paris"}]}',
}
LATE_SECONDS = 2.0


def test_pod(chart: str) -> dict[str, Any]:
    """Return the manifest of the chart's test pod."""
    base = read(HELM / "tests/options" / f"{chart}.yaml").get("base", {})
    done = subprocess.run(
        [tool("helm"), "template", "r", HELM / chart, "-f", "-"],
        input=yaml.safe_dump(base), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (pod,) = (one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one and one["kind"] == "Pod")
    return dict(pod)


test_pod.__test__ = False  # type: ignore[attr-defined]


def ask(chart: str, port: int, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run the pod's command against a local port."""
    (container,) = test_pod(chart)["spec"]["containers"]
    words = [
        re.sub(r"http://[a-z0-9-]+:\d+", f"http://127.0.0.1:{port}", word) for word in container["command"]
    ]
    if words[0].endswith("python"):
        words[0] = sys.executable
    return subprocess.run(
        words,
        env={**os.environ, "ASK_SECONDS": str(seconds)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def late_server(body: bytes, after: float) -> Iterator[int]:
    """Yield a port that refuses connections for ``after`` seconds and then answers every request."""
    port = free_port()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing."""

    servers: list[http.server.ThreadingHTTPServer] = []

    def serve() -> None:
        time.sleep(after)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        servers.append(server)
        server.serve_forever(poll_interval=0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield port
    finally:
        while not servers:
            time.sleep(0.05)
        servers[0].shutdown()
        thread.join()
        servers[0].server_close()


@pytest.mark.parametrize("chart", BY_HTTP)
def test_a_first_refusal_is_not_the_result(chart: str) -> None:
    with late_server(ANSWERS.get(chart, b"up"), LATE_SECONDS) as port:
        done = ask(chart, port, 30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("chart", BY_HTTP)
def test_what_was_seen_last_is_said_when_the_time_is_over(chart: str) -> None:
    done = ask(chart, free_port(), 1)
    assert done.returncode != 0
    assert "within 1 s, last: " in done.stderr
    assert "refused" in done.stderr.lower()


@pytest.mark.parametrize("chart", TESTED)
def test_a_passed_pod_is_removed_and_a_failed_one_stays(chart: str) -> None:
    pod = test_pod(chart)
    policy = set(pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(","))
    assert policy == {"before-hook-creation", "hook-succeeded"}
    assert pod["spec"]["restartPolicy"] == "Never"
    script = "\n".join(pod["spec"]["containers"][0]["command"])
    assert "ASK_SECONDS" in script
    assert re.search(r"ASK_SECONDS(:-|\", \")30", script), "30 s by default"
