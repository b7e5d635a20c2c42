"""Several generators share one workload: as processes here, as Jobs on Kubernetes by a manifest."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml

from harness.ports import free_port
from harness.processes import answers, running

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "load-testing" / "kubernetes" / "generators.yaml"


def test_the_manifest_is_valid_and_both_jobs_send_the_same() -> None:
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    for document in documents:
        kubernetes_validate.validate(document, "1.35", strict=True)
    said = []
    for job in (d for d in documents if d["kind"] == "Job"):
        container = job["spec"]["template"]["spec"]["containers"][0]
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
    assert (ROOT / "load-testing" / "workloads" / said[0]["workload"]).is_dir()


@pytest.mark.service
def test_two_workers_send_one_workload_and_the_master_keeps_every_record(tmp_path: Path) -> None:
    port, master_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    engine = [ROOT / ".venv" / "bin" / "engine-simulator", "serve", "--port", str(port)]
    options = ["--model", "smollm2-135m-instruct", "--step-seconds", "0.005"]
    records = tmp_path / "records.jsonl"
    locust = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(ROOT / "load-testing" / "locustfile.py"),
        "--headless",
    ]
    sent = ["--host", f"{url}/v1", "--workload", "fixed-rate", "--rate", "12", "--duration", "4"]
    environment = {**os.environ, "OPENAI_API_KEY": "none", "LOAD_WORKERS": "2"}
    with running([*engine, *options], log=tmp_path / "engine.log", ready=answers(f"{url}/health")):
        where = ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(master_port)]
        master = subprocess.Popen(
            [*locust, "--master", *where, "--users", "2", "--expect-workers", "2", *sent,
             "--records", str(records), "--exit-code-on-error", "0", "--only-summary"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        to = ["--master-host", "127.0.0.1", "--master-port", str(master_port)]
        workers = [
            subprocess.Popen(
                [*locust, "--worker", *to, *sent],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]  # fmt: skip
        try:
            codes = [process.wait(90) for process in (master, *workers)]
        finally:
            for process in (master, *workers):
                process.kill()
                process.wait()
        made = httpx.get(f"{url}/sim/state").json()["generation_tokens"]
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert codes == [0, 0, 0]
    assert len(lines) > 20
    assert {line["outcome"] for line in lines} == {"good"}
    assert made == 16 * len(lines), "the engine's own count: none is missing, none is there twice"
