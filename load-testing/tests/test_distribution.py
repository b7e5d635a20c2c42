"""Several generators share one workload: as processes, and as Jobs in the Kubernetes manifest."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml

from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually
from load_testing import run, workloads
from load_testing.measure.generators import Account, BadAccount, merged
from load_testing.run import LOCUSTFILE

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "load-testing" / "kubernetes" / "generators.yaml"


def test_the_manifest_is_valid_and_both_jobs_send_the_same() -> None:
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    for document in documents:
        kubernetes_validate.validate(document, "1.35", strict=True)
    said = []
    for job in (d for d in documents if d["kind"] == "Job"):
        assert job["spec"]["activeDeadlineSeconds"] > 600, "no Job stays for ever"
        pod = job["spec"]["template"]["spec"]
        container = pod.get("initContainers", pod["containers"])[0]
        text = " ".join([*container["command"], *container.get("args", [])])
        said.append(
            {
                name: re.search(rf"--{name} (\S+)", text)[1]
                for name in ("host", "workload", "rate", "duration")
            }
        )
        workers = next(e["value"] for e in container["env"] if e["name"] == "LOAD_WORKERS")
        assert workers == "4"
    assert said[0] == said[1]
    assert documents[-1]["spec"]["parallelism"] == 4
    assert (workloads.FOLDER / said[0]["workload"]).is_dir()


@dataclass(frozen=True)
class Generators:
    """Run a master and two workers that send to a simulated engine."""

    engine: str
    records: Path
    master: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]

    def judged(self, out: Path) -> subprocess.CompletedProcess[str]:
        """Evaluate the records with run.py."""
        return subprocess.run(
            [sys.executable, "-m", "load_testing.run", "--records", str(self.records), "--out", str(out)],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )


@contextmanager
def generators(folder: Path, duration: float) -> Iterator[Generators]:
    port, master_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    engine = [ROOT / ".venv" / "bin" / "engine-simulator", "serve", "--port", str(port)]
    options = ["--model", "smollm2-135m-instruct", "--step-seconds", "0.005"]
    records = folder / "records.jsonl"
    locust = [
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"),
        *("--host", f"{url}/v1", "--workload", "fixed-rate", "--rate", "12", "--duration", f"{duration:g}"),
    ]
    where = ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(master_port)]
    kept = ["--records", str(records), "--exit-code-on-error", "0", "--only-summary"]
    to = ["--master-host", "127.0.0.1", "--master-port", str(master_port)]
    commands = [
        [*locust, "--master", *where, "--users", "2", "--expect-workers", "2", *kept],
        *[[*locust, "--worker", *to]] * 2,
    ]
    with running([*engine, *options], log=folder / "engine.log", ready=answers(f"{url}/health")):
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, "OPENAI_API_KEY": "none", "LOAD_WORKERS": "2"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for command in commands
        ]
        try:
            yield Generators(url, records, processes[0], processes[1:])
        finally:
            for process in processes:
                process.kill()
                process.wait()


@pytest.mark.service
def test_two_workers_send_one_workload_and_the_master_keeps_every_record(tmp_path: Path) -> None:
    with generators(tmp_path, duration=4) as started:
        codes = [process.wait(90) for process in (started.master, *started.workers)]
        made = httpx.get(f"{started.engine}/sim/state").json()["generation_tokens"]
    lines = [json.loads(line) for line in started.records.read_text().splitlines()]
    assert codes == [0, 0, 0]
    assert len(lines) > 20
    assert {line["outcome"] for line in lines} == {"good"}
    assert made == 16 * len(lines), "the engine's own count: none is missing, none is there twice"

    judged = started.judged(tmp_path / "report")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["planned"] == summary["requests"] == len(lines)
    assert (summary["workload"], summary["rate_per_second"]) == ("fixed-rate", 12.0)
    assert len(summary["generators"]) == 2
    late = [problem for problem in summary["problems"] if problem.startswith("invalid")]
    assert judged.returncode == (1 if late else 0), judged.stdout + judged.stderr
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.service
def test_the_master_does_not_wait_for_a_worker_that_died(tmp_path: Path) -> None:
    with generators(tmp_path, duration=600) as started:
        eventually(lambda: started.records.is_file() and started.records.stat().st_size > 0, "they send", 60)
        started.workers[0].kill()
        assert started.master.wait(60) == 3
        assert started.workers[1].wait(30) is not None
    judged = started.judged(tmp_path / "report")
    assert judged.returncode == 1
    assert "generators came to their end" in judged.stdout


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (None, "records.generator.json cannot be read (No such file or directory)"),
        ("{}", "records.generator.json is not a generator's account"),
    ],
)
def test_records_without_their_account_are_one_sentence(
    account: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("")
    if account is not None:
        records.with_suffix(".generator.json").write_text(account)
    assert run.main(["--records", str(records), "--out", str(tmp_path / "report")]) == 2
    assert said in capsys.readouterr().err


def test_records_of_two_runs_are_not_judged_as_one() -> None:
    common = {"target": "http://x/v1", "duration_seconds": 1, "seed": 1, "generators": 1}
    one = Account(workload="fixed-rate", rate_per_second=2, **common)
    assert merged([one, one]).rate_per_second == 4
    with pytest.raises(BadAccount, match="of different runs"):
        merged([one, Account(workload="soak", rate_per_second=2, **common)])
