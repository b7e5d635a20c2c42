"""`make load` from its command line to its report and exit code, against a real engine simulator."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually
from load_testing.run import LOCUSTFILE

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [ROOT / ".venv" / "bin" / "engine-simulator", "serve", "--port", str(port)]
    models = ["--model", "smollm2-135m-instruct", "--step-seconds", "0.005"]
    with running([*command, *models], log=tmp_path / "simulator.log", ready=answers(f"{url}/health")):
        yield url


def load(url: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "load_testing.run", "--target", f"{url}/v1"),
            *("--rate", "8", "--duration", "3", "--out", str(out), *more),
            *("--prometheus", f"http://127.0.0.1:{free_port()}"),
        ],
        env={"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def test_a_run_against_a_healthy_engine_passes_and_leaves_its_report(simulator: str, tmp_path: Path) -> None:
    done = load(simulator, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    late = [problem for problem in summary["problems"] if problem.startswith("invalid")]
    assert summary["failed"] == 0
    assert summary["planned"] == summary["requests"] > 5
    assert summary["generators"][0]["cpu_cores"] > 0
    # the engine's count is independent of the client
    state = httpx.get(f"{simulator}/sim/state").json()
    assert state["generation_tokens"] == summary["completion_tokens"] == 16 * summary["requests"]
    assert done.returncode == (1 if late else 0), done.stdout + done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in page
    assert "No Prometheus answered" in page


def test_a_clean_end_without_done_fails_the_gate(simulator: str, tmp_path: Path) -> None:
    fault = {"kind": "clean_truncation", "after_chunks": 2, "ratio": 0.5}
    httpx.post(f"{simulator}/sim/faults", json=fault).raise_for_status()
    done = load(simulator, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        httpx.get(f"{simulator}/sim/state").json()["fault_hits"]["clean_truncation"]
        == summary["truncated"]
        > 0
    )
    assert done.returncode == 1
    assert "FAILED:" in done.stdout


def test_bad_input_is_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    done = load("http://127.0.0.1:1", tmp_path / "run", "--workload", "nope")
    assert done.returncode == 2
    assert 'load: WORKLOAD: "nope" is not a workload' in done.stderr


def test_a_generator_that_cannot_write_its_records_says_so_and_fails(simulator: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "locust", "--headless", "--only-summary", "--users", "1"),
        *("--locustfile", str(LOCUSTFILE), "--host", f"{simulator}/v1"),
        *("--rate", "8", "--duration", "1", "--exit-code-on-error", "0"),
        *("--records", str(tmp_path / "missing" / "requests.jsonl")),
    ]
    done = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode != 0
    assert "1 records are lost: [Errno 2]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_generator_whose_reader_is_gone_still_ends(simulator: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "load_testing.run", "--target", f"{simulator}/v1"),
        *("--rate", "8", "--duration", "8", "--out", str(tmp_path / "run")),
    ]
    run = subprocess.Popen(
        command,
        env={"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    records = tmp_path / "run" / "requests.jsonl"
    try:
        eventually(lambda: records.is_file() and records.stat().st_size > 0, "requests are sent", 60)
        (generator,) = psutil.Process(run.pid).children()
        if os.geteuid() == 0:
            assert os.sched_getscheduler(generator.pid) == os.SCHED_RR | os.SCHED_RESET_ON_FORK
    finally:
        run.kill()
        run.wait()
        assert run.stdout is not None
        run.stdout.close()
    sent = records.stat().st_size
    psutil.wait_procs([generator], timeout=60)
    assert not generator.is_running(), "it ends by itself"
    assert records.stat().st_size > sent, "it was still sending when its reader went"
