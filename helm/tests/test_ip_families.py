"""IPv6-only and dual-stack clusters: every chart listens as configured, and every program that listens on :: serves both."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, merged, read
from harness.kubernetes.charts import helm
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.edges import CLIENT_KEY, running_edge

pytestmark = [pytest.mark.service, pytest.mark.untimed]

BIN = Path(sys.executable).parent
FAMILIES = ("[::1]", "127.0.0.1")
LISTENING = {"listenAddress": "::"}


def rendered(chart: str, tmp_path: Path, **more: Any) -> str:
    base = read(HELM / "tests/options" / f"{chart}.yaml").get("base", {})
    (tmp_path / "v.yaml").write_text(json.dumps(merged(base, more)))
    done = helm("template", "r", HELM / chart, "-n", "llm", "-f", tmp_path / "v.yaml")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("chart", CHARTS)
def test_no_manifest_listens_on_ipv4_only(chart: str, tmp_path: Path) -> None:
    text = rendered(chart, tmp_path, **{"global": LISTENING})
    assert "0.0.0.0" not in text
    assert "ipv4_compat: false" not in text


@pytest.mark.parametrize("chart", [chart for chart in CHARTS if chart != "observability"])
def test_every_service_has_the_family_policy(chart: str, tmp_path: Path) -> None:
    families = {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}
    documents = yaml.safe_load_all(rendered(chart, tmp_path, service=families))
    services = [one["spec"] for one in documents if one and one["kind"] == "Service"]
    assert services
    for spec in services:
        assert {key: spec.get(key) for key in families} == families


@contextmanager
def listening(words: Sequence[object], port: int, path: str, log: Path) -> Iterator[None]:
    command = [str(word) for word in words]
    with running(command, log=log, ready=answers(f"http://[::1]:{port}{path}"), ready_seconds=60):
        for family in FAMILIES:
            assert httpx.get(f"http://{family}:{port}{path}").status_code == 200, f"{command[0]} at {family}"
        yield


def test_every_program_on_all_addresses_serves_both_families_and_a_request_passes(tmp_path: Path) -> None:
    engine, control, agent, router, console = (free_port() for _ in range(5))
    model = sorted((HELM.parent / "services/inference-backend/models").glob("*.yaml"))[0]
    config = {
        "server": {"host": "::", "port": router},
        "pools": {"all": {"models": ["*"], "backends": {
            "one": {"url": f"http://[::1]:{engine}", "health_url": f"http://[::1]:{engine}/health"}}}},
        "routing": {"default_pool": "all"},
    }  # fmt: skip
    (tmp_path / "router.yaml").write_text(yaml.safe_dump(config))
    programs: list[tuple[list[object], int, str]] = [
        ([BIN / "engine-simulator", "serve", "--host", "::", "--port", engine, "--control-port", control, "--model", "m"],
         engine, "/health"),
        ([BIN / "backend-agent", "serve", "--name", "one", "--engine-url", f"http://[::1]:{engine}", "--host", "::",
          "--port", agent, "--model-file", model, "--device", "none"], agent, "/livez"),
        ([BIN / "router-service", "serve", "--config", tmp_path / "router.yaml"], router, "/healthz"),
        ([BIN / "console", "serve", "--host", "::", "--port", console, "--router", f"http://[::1]:{router}"],
         console, "/healthz"),
    ]  # fmt: skip
    with ExitStack() as stack:
        for words, port, path in programs:
            stack.enter_context(listening(words, port, path, tmp_path / f"{port}.log"))
        settings = {"listen": {"host": "::"}, "telemetry": {"host": "::"}, "router": {"host": "::1"}}
        edge = stack.enter_context(running_edge(tmp_path / "edge", router, settings))
        for family in FAMILIES:
            answer = httpx.post(
                f"http://{family}:{edge.port}/v1/chat/completions",
                headers={"authorization": f"Bearer {CLIENT_KEY}"},
                json={"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]},
                timeout=30,
            )
            assert (answer.status_code, answer.headers["x-route-backend"]) == (200, "one"), answer.text
