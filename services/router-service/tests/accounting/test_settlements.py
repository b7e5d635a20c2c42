"""The router settles tokens of cut-off responses for the edge, and no unknown usage."""

from time import perf_counter
from types import SimpleNamespace

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from router_service.accounting.settlements import settle_request, tokens_to_settle
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.openai_api.usage import EngineReport
from router_service.pipeline.ends import BY_END, End, Refused
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.records.record import AttemptRecord

KNOWN = EngineReport(prompt_tokens=7, completion_tokens=5)


def job(ends: list[End], report: EngineReport, *, cut_off: bool = True, trailers: bool = True) -> Job:
    path = INFERENCE_PATHS["/v1/chat/completions"]
    made = Job(
        Inbound(path, path.target, [], b"", 0.0, perf_counter()),
        SimpleNamespace(replica=b"router-1"),  # type: ignore[arg-type]
        "r-1",
        "client",
        ("", ""),
        None,  # type: ignore[arg-type]
        wants_trailers=trailers,
    )
    made.report = report
    made.cut_off = cut_off
    for end in ends:
        record = AttemptRecord("backend-a")
        record.outcome = end
        made.attempts.append(record)
    return made


@pytest.mark.parametrize(
    ("ends", "report", "settled"),
    [
        ([], EngineReport(), 0),
        ([End.CONNECT_FAILED, End.CONNECT_TIMEOUT], EngineReport(), 0),
        ([End.STALE], EngineReport(), 0),
        ([End.CLIENT_GONE], KNOWN, 12),
        ([End.CONNECT_FAILED, End.CLIENT_GONE], KNOWN, 12),
        ([End.CLIENT_GONE], EngineReport(), None),
        ([End.CLIENT_GONE], EngineReport(prompt_tokens=7), None),
        ([End.BROKEN], EngineReport(), None),
    ],
)
def test_only_what_is_known_is_settled(ends: list[End], report: EngineReport, settled: int | None) -> None:
    assert tokens_to_settle(job(ends, report)) == settled
    assert tokens_to_settle(job(ends, report, cut_off=False)) is None, "the edge settles it"
    assert tokens_to_settle(job(ends, report, trailers=False)) is None, "nobody reserved anything"


class Written:
    """A client that keeps the head of its answer."""

    gone = False
    headers: list[tuple[bytes, bytes]]

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers

    def write(self, data: bytes) -> None:
        pass

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("end", list(BY_END))
def test_a_refusal_reports_no_tokens_unless_no_engine_saw_the_request(end: End) -> None:
    written = Written()
    Refused(BY_END[end]).apply(job([end], EngineReport()), written)  # type: ignore[arg-type]
    reported = dict(written.headers).get(b"x-route-tokens")
    never_sent = end in (End.CONNECT_FAILED, End.CONNECT_TIMEOUT, End.STALE)
    assert reported == (b"prompt=0,completion=0" if never_sent else None)


@pytest.mark.parametrize("length", [1, 127, 128, 300])
def test_the_message_is_envoys(length: int) -> None:
    read = RateLimitRequest.FromString(settle_request("c" * length, "r-1", 12))
    (descriptor,) = read.descriptors
    entries = {entry.key: entry.value for entry in descriptor.entries}
    assert (read.domain, entries) == ("edge", {"client": "c" * length, "request": "r-1", "settle": "12"})
