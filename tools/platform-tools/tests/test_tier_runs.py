"""The order and priority of the tiers of `make test`."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from platform_tools import tier_runs

ROOT = Path(__file__).resolve().parents[3]

# Replaces pytest: writes a report with its priority, once a file of another tier exists.
PROGRAM = """
import os, sys, time
from pathlib import Path
folder, name, awaited, absent = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
assert not (folder / absent).exists(), absent
(folder / f"{name}.started").touch()
until = time.monotonic() + 60
while not (folder / awaited).exists():
    assert time.monotonic() < until, f"{awaited} never came"
    time.sleep(0.01)
print(f"{name} printed this")
(folder / f"{name}.niceness").write_text(str(os.nice(0)))
(folder / f"{name}.xml").write_text(f'<testsuite><testcase classname="a" name="{name}"/></testsuite>')
(folder / f"{name}.ended").touch()
"""
# Tier: the file it waits for, and the file that must not exist when it starts.
ORDER = {
    "contract": ("contract.started", "programs.started"),
    "programs": ("service.started", "service.ended"),
    "untimed": ("programs.ended", "service.ended"),
    "service": ("untimed.ended", "untimed.ended"),
    "platform": ("untimed.ended", "platform.started.twice"),
}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def command(name: str, arguments: list[str], report: str) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(tmp_path), name, *ORDER[name]]

    monkeypatch.setattr(tier_runs, "REPORTS", tmp_path)
    monkeypatch.setattr(tier_runs, "command_of", command)
    return tmp_path


def test_two_tiers_run_side_by_side_behind_the_service_tier_at_low_priority(
    stand_in: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiers = tier_runs.run_chosen(list(tier_runs.TIERS), [])
    assert [(tier.name, tier.passed, tier.failed) for tier in tiers] == [
        (name, 1, 0) for name in tier_runs.TIERS
    ]
    niceness = {name: int((stand_in / f"{name}.niceness").read_text()) for name in tier_runs.TIERS}
    own = os.nice(0)
    low = min(19, own + tier_runs.NICENESS)
    assert niceness == {"contract": own, "programs": low, "untimed": low, "service": own, "platform": own}
    printed = capfd.readouterr().out
    said = [printed.index(f"{name} printed this") for name in ("service", "programs", "untimed", "platform")]
    assert said == sorted(said)


def test_the_seconds_of_a_tier_behind_end_with_it(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service tier still runs when the tiers behind have ended."""
    monkeypatch.setitem(ORDER, "service", ("later", "untimed.ended"))

    def let_service_end() -> None:
        until = time.monotonic() + 60
        while not (stand_in / "untimed.ended").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(5)
        (stand_in / "later").touch()

    helper = threading.Thread(target=let_service_end)
    helper.start()
    programs, untimed, service = tier_runs.run_chosen(["programs", "untimed", "service"], [])
    helper.join()
    assert max(programs.seconds, untimed.seconds) < service.seconds - 1.5


def test_an_interrupt_ends_the_tiers_behind(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("programs", "untimed", "service"):
        monkeypatch.setitem(ORDER, name, ("never", "never"))

    started = [stand_in / f"{name}.started" for name in ("programs", "untimed", "service")]

    def interrupt() -> None:
        until = time.monotonic() + 60
        while not all(file.exists() for file in started) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        tier_runs.run_chosen(["programs", "untimed", "service"], [])
    helper.join()
    assert all(file.exists() for file in started)
    assert not list(stand_in.glob("*.ended"))


def test_a_tier_alone_runs_in_front(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (stand_in / "service.started").touch()
    (tier,) = tier_runs.run_chosen(["programs"], [])
    assert (tier.passed, tier.failed) == (1, 0)
    assert int((stand_in / "programs.niceness").read_text()) == os.nice(0)
    assert "programs printed this" in capfd.readouterr().out


def test_every_test_belongs_to_one_tier_and_each_tier_has_its_own_cache() -> None:
    commands = {name: tier_runs.command_of(name, [], name) for name in tier_runs.TIERS}
    assert len({command[command.index("-o") + 1] for command in commands.values()}) == len(commands)
    left_out = re.findall(r"not (\w+)", tier_runs.TIERS["contract"][0])
    assert set(left_out) == {*tier_runs.TIERS, "cluster"} - {"contract", "untimed"}
    for marks in ([], ["programs"], ["service"], ["service", "untimed"], ["service", "platform"],
                  ["service", "untimed", "platform"], ["platform"]):  # fmt: skip
        known = {name: name in marks for name in (*tier_runs.TIERS, "cluster")}
        assert sum(eval(selected, {}, known) for selected, _ in tier_runs.TIERS.values()) == 1, marks
