"""The one client of Prometheus: what it returns, and how a query without a result ends."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from platform_contracts.prometheus import NoAnswer, Prometheus, Refused, Series

ROOT = Path(__file__).parents[3]
UP = {"__name__": "up", "job": "router"}
RESULTS = {
    "up": [{"metric": UP, "value": [10.5, "1"]}],
    "up[5m]": [{"metric": UP, "values": [[9, "0"], [10.5, "1"]]}],
}


class Answers(BaseHTTPRequestHandler):
    """Prometheus's API with fixed results."""

    def do_GET(self) -> None:
        query = self.path.partition("query=")[2].partition("&")[0].replace("%5B", "[").replace("%5D", "]")
        status, body = 200, json.dumps({"data": {"result": RESULTS.get(query, [])}})
        if query == "bad":
            status, body = 400, "parse error"
        elif query == "page":
            body = "<html>"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with Prometheus(f"http://127.0.0.1:{server.server_port}") as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_instant_query_returns_points_and_a_range_selector_all_its_samples(prometheus: Prometheus) -> None:
    assert prometheus.instant("up") == [Series(UP, [(10.5, 1.0)])]
    assert prometheus.instant("up[5m]", 11.0) == [Series(UP, [(9.0, 0.0), (10.5, 1.0)])]
    assert prometheus.values("up", 11.0) == [(UP, 1.0)]
    assert prometheus.range("nothing", 1.0, 2.0, 1.0) == []
    assert prometheus.reachable()


def test_a_refusal_has_its_status_and_message(prometheus: Prometheus) -> None:
    with pytest.raises(Refused, match="parse error") as caught:
        prometheus.instant("bad")
    assert caught.value.status == 400


def test_a_server_that_is_no_prometheus_gives_no_answer(prometheus: Prometheus) -> None:
    with pytest.raises(NoAnswer, match="is not a Prometheus"):
        prometheus.instant("page")


def test_a_server_that_is_gone_gives_no_answer() -> None:
    with Prometheus("http://127.0.0.1:1") as gone:
        assert not gone.reachable()
        with pytest.raises(NoAnswer, match="ConnectError"):
            gone.instant("up")


def test_a_proxy_of_the_environment_is_ignored(
    prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Prometheus(prometheus.url) as client:
        assert client.values("up") == [(UP, 1.0)]


def test_no_other_file_reads_prometheus_answers() -> None:
    folders = ("helm", "libraries", "load-testing", "services", "tests", "tools")
    readers = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if '["data"]["result"]' in path.read_text() and path != Path(__file__)
    }
    assert readers == {"libraries/platform-contracts/src/platform_contracts/prometheus.py"}
