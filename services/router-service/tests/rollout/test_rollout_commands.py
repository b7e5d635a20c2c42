"""`router-service rollout`: recorded steps are computed again, the state is printed, and bad input is one sentence."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from platform_contracts.log_lines import log_line
from router_service.cli.commands import main
from router_service.rollout.next_step import next_step
from router_service.rollout.plan import ERROR, OK, Arm, Evidence, Pair, Plan, Row, State, as_json

PLAN = Plan("r", "old", "new", (5.0, 25.0, 100.0), {"ttft_p50": 1.25, "errors": 0.02})


def arm(random: Random, ttft: float, errors: int) -> Arm:
    rows: list[Row] = [(round(ttft * random.lognormvariate(0, 0.2), 1), 10.0, OK, 0) for _ in range(150)]
    rows[:errors] = [(None, None, ERROR, 0)] * errors
    return Arm(len(rows), tuple(rows))


def decided(seed: int) -> dict[str, Any]:
    """Return the fields of a recorded step on random evidence."""
    random = Random(seed)
    ttft, errors = [(100, 0), (200, 0), (100, 40), (125, 4)][seed % 4]
    pairs = [Pair(arm(random, 100, 0), arm(random, ttft, errors)) for _ in range(2)]
    state, evidence = State("new", 25.0), Evidence(*pairs)
    plan = replace(PLAN, paused=seed % 5 == 0)
    return {
        "rule": "r",
        "step": as_json(next_step(state, evidence, plan)),
        "state": as_json(state),
        "plan": as_json(plan),
        "evidence": as_json(evidence),
    }


def written(folder: Path, steps: list[dict[str, Any]]) -> Path:
    log = folder / "controller.jsonl"
    lines = [log_line("router-service", "info", "rollout_decided", **step) for step in steps]
    log.write_text("\n".join(["not JSON", log_line("router-service", "info", "rollout_leader"), *lines, ""]))
    return log


def test_recorded_steps_are_the_same_when_they_are_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [decided(seed) for seed in range(12)]
    assert {step["step"]["action"] for step in steps} >= {"back", "hold", "advance"}
    assert max(len(json.dumps(step)) for step in steps) < 65_536
    assert main(["rollout", "replay", str(written(tmp_path, steps))]) == 0
    assert capsys.readouterr().out == "12 steps, 0 different\n"


@pytest.mark.parametrize("change", ["percent", "reason", "evidence", "limit"])
def test_a_step_that_does_not_follow_from_its_record_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    steps = [decided(seed) for seed in range(3)]
    last = json.loads(json.dumps(steps.pop()))
    steps.append(last)
    if change == "percent":
        last["step"]["percent"] = 99.0
    elif change == "reason":
        last["step"]["reason"] = "watching"
    elif change == "evidence":
        last["evidence"]["last"]["new"]["rows"][0] = (9e9, 10.0, OK, 0)
    else:
        last["plan"]["objectives"]["errors"] = 0.5
    log = written(tmp_path, steps)
    assert main(["rollout", "replay", str(log)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{log}:5: recorded ")
    assert out.endswith("3 steps, 1 different\n")


def test_what_cannot_be_replayed_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = decided(1)
    del step["evidence"]["last"]
    assert main(["rollout", "replay", str(written(tmp_path, [step]))]) == 2
    assert ":3: is not a whole decision" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.write_bytes(b"\xff\xfe\n")
    assert main(["rollout", "replay", str(empty)]) == 2
    assert "has no rollout_decided line; give the log of" in capsys.readouterr().err
    assert main(["rollout", "replay", str(tmp_path / "none")]) == 2
    assert "none: cannot be read: No such file" in capsys.readouterr().err


def configured(folder: Path, rollout: bool = True, **routing: Any) -> Path:
    pools = {name: {"models": ["m"], "backends": {name: {"url": "http://h:1"}}} for name in ("old", "new")}
    rule: dict[str, Any] = {"name": "r", "when": {}, "route_to": "old"}
    if rollout:
        rule["rollout"] = {"to": "new", "objectives": {"errors": 0.02}}
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
    routing = {"default_pool": "old", "rules_file": "rules.yaml", **routing}
    path = folder / "router.yaml"
    path.write_text(yaml.safe_dump({"pools": pools, "routing": routing}))
    return path


def test_the_state_of_each_rollout_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = configured(tmp_path, weights_file="weights.yaml")
    assert main(["rollout", "status", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "r: not started, all requests go to old\n"
    at = "2026-01-01T00:00:00+00:00"
    share = {
        "to": "new", "percent": 5, "state": "went_back", "since": at,
        "decided": {"at": at, "action": "back", "reason": "errors"},
    }  # fmt: skip
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump({"rollouts": {"r": share}}))
    assert main(["rollout", "status", "--config", str(path)]) == 0
    assert capsys.readouterr().out == (
        f"r: 5 % to new, went_back, since {at}; last decision {at}: back (errors)\n"
    )
    assert main(["rollout", "status", "--config", str(configured(tmp_path, rollout=False))]) == 0
    assert "no rule has a rollout" in capsys.readouterr().out


def test_the_controller_does_not_start_without_a_weights_file_or_its_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollout", "run", "--config", str(configured(tmp_path, rollout=False))]) == 2
    assert (
        "routing.weights_file is missing: name the file that the controller writes" in capsys.readouterr().err
    )
    path = configured(tmp_path, weights_file="weights.yaml")
    (tmp_path / "weights.yaml.lock").mkdir()
    assert main(["rollout", "run", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "weights.yaml.lock: cannot be opened: Is a directory" in said
    assert "let this user write the folder, or configure redis" in said


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["run"], ["status"], ["replay"]):
        with pytest.raises(SystemExit) as ended:
            main(["rollout", *command, "--help"])
        assert ended.value.code == 0
        assert "usage: router-service rollout" in capsys.readouterr().out
