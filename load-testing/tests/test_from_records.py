"""Decision records become a workload: the same arrivals, lengths, sessions and prefixes, with other text."""

import json
from pathlib import Path
from typing import Any

import pytest

from load_testing import workloads
from load_testing.from_records import main
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.users.open_loop import Run


def record(at: float, **more: Any) -> dict[str, Any]:
    return {
        "config_hash": "a",
        "time": f"2026-01-01T00:00:{at:09.6f}Z",
        "path": "/v1/chat/completions",
        "model": "m",
        "stream": True,
        "pool": "general",
        "features": {"prompt_chars": 600, "session": "s1", "prefix": "p1"},
        "tokens": {"prompt": 120, "completion": 7, "cached": 60, "reasoning": None},
        **more,
    }


RECORDS = [
    record(3.5, tokens={"prompt": 120, "completion": 9, "cached": 0, "reasoning": None}, stream=False),
    record(1.0),
    record(2.0, features={"prompt_chars": 30, "session": "", "prefix": ""}),
    record(2.5, pool="other"),
    record(2.6, shadow_of="a-request"),
    record(4.0, path="/v1/embeddings"),
    record(5.0, tokens={"prompt": None, "completion": None, "cached": None, "reasoning": None}),
]


class Recording:
    """Stands for the client and keeps what it should send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, record: RequestRecord, body: Any, *, headers: dict[str, str], **_: Any) -> str:
        record.outcome = Outcome.GOOD
        self.sent.append({**body, "session": headers.get("x-session-id", "")})
        return "an answer"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    log, out = tmp_path / "router.jsonl", tmp_path / "mine.yaml"
    log.write_text("".join(json.dumps(one) + "\n" for one in RECORDS) + "not JSON\n")
    assert main([str(log), "--out", str(out), "--pool", "general"]) == 0
    return out


def test_arrivals_and_lengths_are_those_of_the_records(written: Path) -> None:
    workload = workloads.load(str(written))
    assert [arrival.at for arrival in workload.recorded] == [0.0, 1.0, 2.5]
    assert [arrival.max_tokens for arrival in workload.recorded] == [7, 7, 9]
    assert [arrival.stream for arrival in workload.recorded] == [True, True, False]
    first, second, _ = workload.recorded
    assert first.prefix_words == pytest.approx(first.words / 2, abs=1)
    assert (second.prefix, second.prefix_words) == ("", 0)
    assert workload.rate_per_second == pytest.approx(3 / 2.5)


def test_it_is_sent_with_text_of_the_same_length(written: Path) -> None:
    workload = workloads.load(str(written))
    client, records = Recording(), []
    run = Run(workload, workload.rate_per_second * 20, 10, 1, {"load": client}, records.append)  # type: ignore[dict-item]
    run.dispatch()
    assert run.planned == len(records) == 3
    assert [sent["session"] for sent in client.sent] == ["s1", "", "s1"]
    for sent, chars in zip(client.sent, (600, 30, 600), strict=True):
        text = " ".join(message["content"] for message in sent["messages"])
        assert len(text) == pytest.approx(chars, rel=0.25)
    systems = [m["content"] for sent in client.sent for m in sent["messages"] if m["role"] == "system"]
    assert len(systems) == 1


def test_a_part_of_the_time_sends_a_part_of_the_requests(written: Path) -> None:
    workload = workloads.load(str(written))
    client, records = Recording(), []
    run = Run(workload, workload.rate_per_second * 20, 0.06, 1, {"load": client}, records.append)  # type: ignore[dict-item]
    run.dispatch()
    assert len(records) == 2


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (None, [], "cannot be read"),
        ("", [], "no answered chat with token counts"),
        (json.dumps(record(1)), ["--pool", "x"], "no answered chat of pool x"),
    ],
)
def test_a_log_without_a_load_says_why(
    text: str | None, words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    if text is not None:
        log.write_text(text)
    assert main([str(log), "--out", str(tmp_path / "out.yaml"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()


def test_a_workload_has_kinds_or_recorded_requests(tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"
    file.write_text("description: x\nrate_per_second: 1\nduration_seconds: 1\n")
    with pytest.raises(workloads.BadWorkload, match="list the kinds of requests"):
        workloads.load(str(file))
