"""The chart's engine pod, run from its own manifest: loader, agent and vLLM with their commands and probes.

Only mount points, ports and interpreter paths are changed; what a cluster adds is not tested here.
"""

import json
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.kubernetes.tools import tool
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.span_collector import SpanReceiver
from harness.stacks.local import ROOT
from harness.waiting import eventually

pytestmark = [pytest.mark.platform, pytest.mark.timeout(400)]
BIN = ROOT / ".venv" / "bin"
WEIGHTS = ROOT / ".run" / "models" / "smollm2-135m-instruct"
CHART = ROOT / "helm" / "inference-backend"


def rendered_pod(source: Path, collector: str) -> tuple[dict[str, Any], str]:
    """Return the pod's containers by name, and the model file of its ConfigMap."""
    done = subprocess.run(
        [
            tool("helm"), "template", "r", CHART, "-n", "llm", "-f", CHART / "examples/cpu.yaml",
            "--set", f"weights.source={source}", "--set", f"tracing.endpoint={collector}",
        ],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    (config,) = (document for document in documents if document["kind"] == "ConfigMap")
    spec = deployment["spec"]["template"]["spec"]
    parts = {part["name"]: part for part in [*spec["initContainers"], *spec["containers"]]}
    return parts, config["data"]["model.yaml"]


class PodHere:
    """The chart's engine pod with its mount points, ports and interpreters moved to this machine."""

    def __init__(self, folder: Path, collector: SpanReceiver) -> None:
        self.folder = folder
        self.parts, model = rendered_pod(WEIGHTS, f"http://127.0.0.1:{collector.grpc_port}")
        self.engine_port, agent_port = free_port(), free_port()
        self.agent_url = f"http://127.0.0.1:{agent_port}"
        (folder / "model.yaml").write_text(model)
        (folder / "models").mkdir()
        (folder / "start").mkdir()
        self._moves = {
            "/etc/model/model.yaml": str(folder / "model.yaml"),
            "/models": str(folder / "models"),
            "/start/": f"{folder / 'start'}/",
            "http://127.0.0.1:8000": f"http://127.0.0.1:{self.engine_port}",
            "--port=8001": f"--port={agent_port}",
            "$(POD_NAME)": "smollm2-0",
            "0.0.0.0": "127.0.0.1",
        }
        self.probes = {
            kind: self.agent_url + self.parts["engine"][f"{kind}Probe"]["httpGet"]["path"]
            for kind in ("startup", "readiness", "liveness")
        }

    def moved(self, words: list[str]) -> list[str]:
        """Return a command with the paths and ports of this machine."""
        result = []
        for word in words:
            for there, here in self._moves.items():
                # The source of the weights is a folder of this machine already.
                if word != str(WEIGHTS):
                    word = word.replace(there, here)
            result.append(word)
        return result

    def load_weights(self) -> None:
        """Run the init container until it exits."""
        loader = [str(BIN / "backend-agent"), *self.moved(self.parts["weights"]["args"])]
        done = subprocess.run(loader, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr

    def running_agent(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run the sidecar."""
        sidecar = [str(BIN / "backend-agent"), *self.moved(self.parts["agent"]["args"])]
        started = self.agent_url + self.parts["agent"]["startupProbe"]["httpGet"]["path"]
        return running(sidecar, log=self.folder / "agent.log", ready=answers(started))

    def running_engine(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run vLLM by the chart's command, until its startup probe passes."""
        command = self.moved(self.parts["engine"]["command"])
        assert command[0] == "python3"
        command[0] = str(ROOT / ".venv-vllm" / "bin" / "python3")
        command[command.index("--port") + 1] = str(self.engine_port)
        env = {one["name"]: one["value"] for one in self.parts["engine"]["env"] if one["name"] != "HOME"}
        return running(
            command,
            log=self.folder / "engine.log",
            ready=answers(self.probes["startup"]),
            ready_seconds=200,
            stop_seconds=40,
            env=env,
        )

    def run_stop_hook(self) -> None:
        """Run the engine's stop hook; it must last long enough for routers to notice."""
        hook = self.moved(self.parts["engine"]["lifecycle"]["preStop"]["exec"]["command"])
        hook[0] = str(BIN / "backend-agent")
        began = time.monotonic()
        done = subprocess.run(
            [*hook, "--url", self.agent_url], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - began >= 5, "routers get time to notice"


def test_the_engine_pod_loads_warms_answers_traces_and_drains_as_the_chart_says(tmp_path: Path) -> None:
    with SpanReceiver() as collector:
        pod = PodHere(tmp_path, collector)
        pod.load_weights()
        with pod.running_agent():
            assert httpx.get(pod.probes["readiness"]).status_code == 503, "no engine yet"
            assert httpx.get(pod.probes["liveness"]).status_code == 200, (
                "which is no reason to restart anything"
            )
            with pod.running_engine() as engine:
                status = httpx.get(f"{pod.agent_url}/status").json()
                assert status["engine"]["warm_up"], "ready means warm"
                assert all(seconds > 0 for seconds in status["start"]["seconds"].values()), status["start"]
                assert httpx.get(pod.probes["liveness"]).status_code == 200
                _chart_test_asks(pod.engine_port)
                _sends_a_span(pod.engine_port, collector)
                stream = _Stream(pod.engine_port)
                stream.begun.wait(30)
                pod.run_stop_hook()
                assert httpx.get(pod.probes["readiness"]).status_code == 503
                stream.thread.join(30)
                assert stream.text.rstrip().endswith("data: [DONE]"), (
                    "in-flight requests finished before the hook ended"
                )
                engine.terminate()
                assert engine.wait(40) is not None


def _chart_test_asks(port: int) -> None:
    """Run the script of the chart's own `helm test` pod."""
    done = subprocess.run(
        [tool("helm"), "template", "r", CHART, "-f", CHART / "examples/cpu.yaml", "-s", "templates/tests.yaml"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    script = yaml.safe_load(done.stdout)["spec"]["containers"][0]["command"][2]
    asked = subprocess.run(
        [sys.executable, "-c", script.replace("http://smollm2:8000", f"http://127.0.0.1:{port}")],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()


def _sends_a_span(port: int, collector: SpanReceiver) -> None:
    """A sampled request leaves vLLM's own span at the collector that the chart's option names."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/completions",
        json={"model": "smollm2-135m-instruct", "prompt": "One", "max_tokens": 2},
        headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
        timeout=60,
    )
    assert answer.status_code == 200
    spans = eventually(lambda: collector.trace(trace), "the span of the engine arrives", 60)
    assert any("gen_ai.latency.time_in_queue" in one.attributes for one in spans)


class _Stream:
    """A stream that is still running when the pod begins to terminate."""

    def __init__(self, port: int) -> None:
        self.text = ""
        self.begun = threading.Event()
        self._port = port
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        body = {
            "model": "smollm2-135m-instruct",
            "prompt": "Once",
            "max_tokens": 300,
            "ignore_eos": True,
            "stream": True,
        }
        url = f"http://127.0.0.1:{self._port}/v1/completions"
        with httpx.stream("POST", url, content=json.dumps(body), timeout=120,
                          headers={"content-type": "application/json"}) as answer:  # fmt: skip
            for text in answer.iter_text():
                self.text += text
                self.begun.set()
