"""A report is written whatever Prometheus returns, and names missing parts."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.ports import free_port
from load_testing.measure.generators import Account, Share
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.reports.page import write_report
from load_testing.reports.saturation import limiting_resource
from load_testing.reports.servers import SERVER_FIGURES
from load_testing.reports.summary import LISTED, Summary, summarize
from load_testing.workloads import Slo

STARTED_AT = 1_000_000.0


class FakePrometheus:
    """A Prometheus that is ready and answers every query in the same way; without a status it closes the connection."""

    def __init__(self) -> None:
        self.status = 200
        self.result: list[object] = []
        self.asked = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = self.path != "/-/ready"
                fake.asked += query
                if query and not fake.status:
                    return
                self.send_response(fake.status if query else 200)
                self.end_headers()
                self.wfile.write(json.dumps({"data": {"result": fake.result}}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    fake = FakePrometheus()
    yield fake
    fake.close()


def reported(folder: Path, url: str, records: list[RequestRecord]) -> tuple[Summary, str]:
    """Report a run of these records; return the summary and the page."""
    (folder / "requests.jsonl").write_text("".join(r.as_json() + "\n" for r in records))
    account = Account(
        workload="fixed-rate",
        target="http://x/v1",
        rate_per_second=1,
        duration_seconds=1,
        seed=1,
        generators=1,
        shares=(Share(planned=len(records), seconds=1, cpu_cores=0.37),),
    )
    summary = summarize(
        records,
        Slo(ttft_seconds=1.0),
        account,
        description="What it is.",
        started_at=STARTED_AT,
        ended_at=STARTED_AT + 60,
        configuration={},
    )
    page = write_report(folder, summary, url).read_text()
    assert json.loads((folder / "summary.json").read_text()) == summary.numbers
    return summary, page


def record(name: str = "r", ttft: float = 0.1, outcome: Outcome = Outcome.GOOD) -> RequestRecord:
    return RequestRecord(
        STARTED_AT, 0.0, "kind", "m", True, outcome, request_id=name, ttft_seconds=ttft, total_seconds=ttft
    )


def test_a_query_that_prometheus_refuses_is_a_note(prometheus: FakePrometheus, tmp_path: Path) -> None:
    prometheus.status = 422
    summary, page = reported(tmp_path, prometheus.url, [record()])
    for missing in (SERVER_FIGURES[0].title, "the alerts", "the dashboards"):
        assert f"Missing: {missing}" in page.replace("&#39;", "'")
    assert "refused the query with status 422" in page
    assert "No alert fired" not in page
    assert "alerts" not in summary.numbers
    assert any("the table by pool" in note for note in summary.numbers["notes"])


def test_a_prometheus_that_stops_answering_is_not_asked_for_everything(
    prometheus: FakePrometheus, tmp_path: Path
) -> None:
    prometheus.status = 0
    _, page = reported(tmp_path, prometheus.url, [record()])
    assert "Missing: the alerts" in page
    assert "No alert fired" not in page
    assert prometheus.asked < 5, "each of them could take a whole timeout"


def test_figures_without_data_are_listed(prometheus: FakePrometheus, tmp_path: Path) -> None:
    _, page = reported(tmp_path, prometheus.url, [record()])
    assert f"Prometheus holds nothing of this time for: {SERVER_FIGURES[0].title}" in page
    assert "No alert fired" in page, "Prometheus was asked and knows of none"


def test_without_a_prometheus_the_page_says_so(tmp_path: Path) -> None:
    assert "no --prometheus" in reported(tmp_path, "", [record()])[1]
    url = f"http://127.0.0.1:{free_port()}"
    assert f"No Prometheus answered at {url}" in reported(tmp_path, url, [record()])[1]


def test_the_page_names_slow_requests_and_says_how_many_more_there_are(tmp_path: Path) -> None:
    slow = [record(f"slow-{number}", ttft=2.0) for number in range(LISTED + 3)]
    failed = [record(f"failed-{number}", outcome=Outcome.CONNECTION) for number in range(LISTED + 4)]
    _, page = reported(tmp_path, "", [*slow, *failed])
    assert "slow-0" in page
    assert "failed-0" in page
    assert "And 3 more" in page
    assert "And 4 more" in page


def test_the_page_shows_the_generators_cpu(tmp_path: Path) -> None:
    assert "37% of a core" in reported(tmp_path, "", [record()])[1]


def verdict(name: str, points: int) -> dict[str, object]:
    return {"metric": {"verdict": name, "pool": "general"}, "values": [[i, "1"] for i in range(points)]}


def test_no_bottleneck_is_not_the_same_as_no_answer(prometheus: FakePrometheus) -> None:
    def said() -> str:
        return limiting_resource(prometheus.url, STARTED_AT, STARTED_AT + 60).sentence

    assert said() == "unknown: Prometheus holds no verdict for this time"
    prometheus.result = [verdict("none", 12)]
    assert said().startswith("none of the layers")
    prometheus.result = [verdict("none", 10), verdict("capacity", 2)]
    assert said() == "capacity in pool general, for 17% of the run"
    prometheus.status = 503
    assert said() == "unknown: Prometheus refused the query with status 503"
    assert limiting_resource("", STARTED_AT, STARTED_AT).sentence.startswith(
        "unknown: not a run on the local"
    )
