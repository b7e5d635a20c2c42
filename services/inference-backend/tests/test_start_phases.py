"""The agent reports the phases of an engine's start that it can see, and how long each took."""

import json
from pathlib import Path

import httpx
import pytest

from backend_agent.main import main
from backend_agent.start_phases import StartPhase, StartPhases, read_report
from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually

ROOT = Path(__file__).parents[3]
BIN = ROOT / ".venv" / "bin"
MODEL = "smollm2-135m-instruct"


def test_phases_add_up_and_a_restarted_engine_has_its_weights() -> None:
    phases = StartPhases(weights_seconds=30.0)
    phases.begin(StartPhase.LOAD, 100.0)
    assert phases.status() == {
        "phase": "load",
        "seconds": {"weights": 30.0, "load": None, "warm_up": None},
    }
    assert phases.total is None
    phases.end(140.0)
    phases.begin(StartPhase.WARM_UP, 140.0)
    phases.end(145.0)
    assert phases.total == 75.0
    phases.begin(StartPhase.LOAD, 200.0)
    assert (phases.current, phases.total) == ("load", None)
    phases.end(220.0)
    phases.begin(StartPhase.WARM_UP, 220.0)
    phases.end(223.0)
    assert phases.seconds == {"load": 20.0, "warm_up": 3.0}


def test_a_load_whose_beginning_was_missed_gives_no_duration_of_a_start() -> None:
    phases = StartPhases()
    phases.begin(StartPhase.LOAD, 100.0)
    phases.end(100.1, seen=False)
    phases.begin(StartPhase.WARM_UP, 100.1)
    phases.end(103.1)
    assert phases.total is None
    assert phases.status()["seconds"] == {"weights": None, "load": None, "warm_up": 3.0}


@pytest.mark.parametrize("text", ["", "{}", '{"weights_seconds": "1"}', '{"weights_seconds": -1}', "[]"])
def test_a_report_that_says_nothing_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    assert read_report(tmp_path / "r.json") is None
    assert read_report(tmp_path / "none.json") is None
    assert read_report(None) is None


def test_load_weights_reports_its_duration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "config.json").write_text("{}")
    words = ["load-weights", "--source", str(tmp_path / "from"), "--to", str(tmp_path / "to"), "--name", "m"]
    assert main([*words, "--report", str(tmp_path / "r.json")]) == 0
    assert (read_report(tmp_path / "r.json") or -1) >= 0
    assert json.loads((tmp_path / "r.json").read_text()).keys() == {"weights_seconds"}
    assert main([*words, "--report", str(tmp_path / "none" / "r.json")]) == 1
    assert "name a file in a writable folder" in capsys.readouterr().err


@pytest.mark.service
@pytest.mark.untimed
def test_an_agent_that_sees_its_engine_start_reports_each_phase(tmp_path: Path) -> None:
    port, engine = free_port(), free_port()
    (tmp_path / "weights.json").write_text('{"weights_seconds": 12.5}')
    agent = [
        BIN / "backend-agent", "serve", "--name", "b", "--engine-url", f"http://127.0.0.1:{engine}",
        "--port", str(port), "--model-file", ROOT / f"services/inference-backend/models/{MODEL}.yaml",
        "--device", "none", "--start-report", tmp_path / "weights.json",
    ]  # fmt: skip
    simulator = [BIN / "engine-simulator", "serve", "--port", str(engine), "--model", MODEL]
    url = f"http://127.0.0.1:{port}"
    with running(agent, log=tmp_path / "agent.log", ready=answers(f"{url}/livez")):
        before = eventually(lambda: httpx.get(f"{url}/status").json(), "it reports")
        assert (before["start"]["phase"], before["start_seconds"]) == ("load", None)
        with running(simulator, log=tmp_path / "engine.log", ready=answers(f"{url}/readyz")):
            status = httpx.get(f"{url}/readyz").json()
            took = status["start"]["seconds"]
            assert took["weights"] == 12.5
            assert took["load"] > 0
            assert took["warm_up"] > 0
            assert status["start_seconds"] == pytest.approx(sum(took.values()), abs=0.01)
            assert 'backend_start_phase_seconds{backend="b",phase="load"}' in httpx.get(f"{url}/metrics").text
