"""What the page Rules reports when the process of a replay fails."""

from pathlib import Path

import pytest

from console import replay
from console.replay import CannotReplay, Replayer

ROUTING = {"pools": {}, "routing": {}}


@pytest.mark.parametrize(
    ("said", "reported"),
    [
        ("Traceback (most recent call last):\nMemoryError\n", "these rules need more than "),
        ("Traceback (most recent call last):\nKeyError: 'model'\n", "the replay failed: KeyError: 'model'"),
        ("", "the replay failed: exit code 1"),
    ],
)
async def test_a_replay_without_a_result_reports_its_own_cause(said, reported, monkeypatch) -> None:
    async def run(folder: Path) -> tuple[int, str, str]:
        return 1, "", said

    monkeypatch.setattr(replay, "_run", run)
    with pytest.raises(CannotReplay) as failed:
        await Replayer().run("rules: []", ROUTING, [{"request_id": "a"}])
    assert reported in str(failed.value)
    assert ("memory" in str(failed.value)) is ("MemoryError" in said)
