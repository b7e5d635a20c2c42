"""The order and priority of the tiers of `make test`."""

import os
import re
import sys
from pathlib import Path

import pytest

from platform_tools import tier_runs

ROOT = Path(__file__).resolve().parents[3]

# Replaces pytest: writes a report with its priority, once a file of another tier exists.
PROGRAM = """
import os, sys, time
from pathlib import Path
folder, name, awaited, absent = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
(folder / f"{name}.started").touch()
assert not (folder / absent).exists(), absent
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
    "service": ("programs.ended", "programs.ended"),
    "platform": ("programs.ended", "platform.started.twice"),
}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def command(name: str, arguments: list[str], report: str) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(tmp_path), name, *ORDER[name]]

    monkeypatch.setattr(tier_runs, "REPORTS", tmp_path)
    monkeypatch.setattr(tier_runs, "command_of", command)
    return tmp_path


def test_programs_run_behind_the_service_tier_at_low_priority(
    stand_in: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiers = tier_runs.run_chosen(list(tier_runs.TIERS), [])
    assert [(tier.name, tier.passed, tier.failed) for tier in tiers] == [
        (name, 1, 0) for name in tier_runs.TIERS
    ]
    niceness = {name: int((stand_in / f"{name}.niceness").read_text()) for name in tier_runs.TIERS}
    own = os.nice(0)
    assert niceness == {
        "contract": own, "programs": min(19, own + tier_runs.NICENESS), "service": own, "platform": own,
    }  # fmt: skip
    printed = capfd.readouterr().out
    assert printed.index("service printed this") < printed.index("programs printed this")


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
    assert set(left_out) == {*tier_runs.TIERS, "cluster"} - {"contract"}
