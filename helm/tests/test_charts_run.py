"""The programs accept and run the configurations in the rendered manifests."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from harness.kubernetes.charts import HELM, manifests, name_of, one, pod_specs
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.router_fleet import BIN, MODEL, fleet_in
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]


@pytest.mark.parametrize("example", sorted((HELM / "router-service/examples").glob("*.yaml")), ids=name_of)
def test_the_router_itself_accepts_the_configuration_of_the_chart(example: Path, tmp_path: Path) -> None:
    data = one(manifests("router-service", example), "ConfigMap", "router-service")["data"]
    for folder in ("router", "router-weights"):  # the pod's mounts
        (tmp_path / folder).mkdir()
    for name, text in data.items():
        (tmp_path / "router" / name).write_text(text)
    done = subprocess.run(
        [BIN / "router-service", "check", "--config", tmp_path / "router/router.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


PASSWORD = "a long password"


def test_redis_and_router_run_from_the_charts_own_commands_and_pass_their_probes(tmp_path: Path) -> None:
    """Commands, configuration and probes are the rendered ones; only mount points and ports are changed."""
    with fleet_in(tmp_path) as fleet:
        engine = fleet.add_engine("engine-a")
        mounts = Mounts(tmp_path)
        with _redis_of_the_chart(mounts, tmp_path) as port:
            values = {
                "config": {
                    "pools": {"general": {"models": [MODEL], "backends": {"engine-a": {"url": engine.url}}}},
                    "routing": {"default_pool": "general"},
                },
                "redis": {"url": f"redis://127.0.0.1:{port}/0", "passwordSecret": "redis"},
            }
            (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
            documents = manifests("router-service", tmp_path / "values.yaml")
            with _router_of_the_chart(documents, mounts, tmp_path) as url:
                body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
                answer = eventually(
                    lambda: _answered(url, body), "a chat completion is answered from the rendered manifests"
                )
                assert answer["choices"][0]["message"]["content"]
                pins = redis.Redis(port=port, password=PASSWORD)
                eventually(
                    lambda: list(pins.scan_iter("llm:session:*")),
                    "the session is pinned in the chart's Redis",
                )
                _chart_test_passes(documents, url)


class Mounts:
    """Folders of this machine for the mount points of the charts, with the secrets in them."""

    def __init__(self, folder: Path) -> None:
        self.folders = {place: folder / name for place, name in (
            ("/run/secret", "secret"), ("/run/acl", "acl"), ("/data", "data"), ("/etc/redis", "redis"),
            ("/etc/router-secret", "router-secret"), ("/etc/router", "router"),
        )}  # fmt: skip
        for place in self.folders.values():
            place.mkdir()
        for secret in ("/run/secret", "/etc/router-secret"):
            (self.folders[secret] / "password").write_text(f"{PASSWORD}\n")

    def moved(self, text: str) -> str:
        """Return ``text`` with every mount point replaced by its folder."""
        for mounted, real in self.folders.items():
            text = text.replace(mounted, str(real))
        return text


@contextlib.contextmanager
def _redis_of_the_chart(mounts: Mounts, folder: Path) -> Iterator[int]:
    """Run Redis by the chart's command and configuration; yield its port."""
    port = free_port()
    store = manifests("llm-redis", HELM / "llm-redis/examples/cache.yaml")
    config = one(store, "ConfigMap", "redis")["data"]["redis.conf"].replace("port 6379", f"port {port}")
    (mounts.folders["/etc/redis"] / "redis.conf").write_text(mounts.moved(config))
    container, exporter = one(store, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    assert exporter["name"] == "exporter"
    command = [mounts.moved(word) for word in container["command"]]

    def ready() -> bool:
        try:
            return bool(redis.Redis(port=port, password=PASSWORD).ping())
        except redis.RedisError:
            return False

    with running(command, log=folder / "redis.log", ready=ready):
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        with pytest.raises(redis.ResponseError):
            redis.Redis(port=port, password=PASSWORD).flushall()
        yield port


@contextlib.contextmanager
def _router_of_the_chart(documents: list[dict[str, Any]], mounts: Mounts, folder: Path) -> Iterator[str]:
    """Run the router by the chart's arguments, configuration and probes; yield its URL."""
    (container,) = one(documents, "Deployment", "router-service")["spec"]["template"]["spec"]["containers"]
    port = free_port()
    for name, text in one(documents, "ConfigMap", "router-service")["data"].items():
        (mounts.folders["/etc/router"] / name).write_text(text.replace("port: 8000", f"port: {port}"))
    url = f"http://127.0.0.1:{port}"
    startup, readiness, liveness = (
        container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    )
    with running(
        [BIN / "router-service", *(mounts.moved(word) for word in container["args"])],
        log=folder / "router.log",
        ready=answers(url + startup["path"]),
    ):
        for probe in (readiness, liveness):
            assert httpx.get(url + probe["path"]).status_code == 200
        yield url


def _chart_test_passes(documents: list[dict[str, Any]], url: str) -> None:
    """Run the script of the chart's own `helm test` pod."""
    (script,) = (
        spec["containers"][0]["command"][2]
        for spec in pod_specs(documents)
        if "command" in spec["containers"][0]
    )
    asked = script.replace("http://router-service:8000", url)
    done = subprocess.run(["python3", "-c", asked], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"][0]["id"] == MODEL, "helm test asks for the models"


def _answered(url: str, body: dict[str, Any]) -> dict[str, Any] | None:
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-session-id": "s"}, timeout=20)
    return answer.json() if answer.status_code == 200 else None


@pytest.mark.parametrize("example", ["notifying.yaml", "small.yaml"])
def test_prometheus_and_alertmanager_accept_what_the_chart_mounts(example: str, tmp_path: Path) -> None:
    documents = manifests("llm-prometheus", HELM / "llm-prometheus/examples" / example)
    rules = tmp_path / "rules"
    rules.mkdir()
    for name, text in one(
        manifests("observability", HELM / "observability/examples/default.yaml"),
        "ConfigMap",
        "llm-platform-rules",
    )["data"].items():
        (rules / name).write_text(text)
    config = yaml.safe_load(one(documents, "ConfigMap", "prometheus")["data"]["prometheus.yml"])
    for job in config["scrape_configs"]:
        # Debian's Prometheus lacks Kubernetes discovery, so that section is not checked.
        assert job.pop("kubernetes_sd_configs") == (
            [{"role": "node"}]
            if job["job_name"] in ("kubelet", "cadvisor")
            else [{"role": "pod", "namespaces": {"names": ["llm", "observability"]}}]
        )
    config["rule_files"] = [str(rules / "*.yml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    alerting = one(documents, "ConfigMap", "alertmanager")["data"]["alertmanager.yml"]
    secrets = tmp_path / "secret"
    (tmp_path / "alertmanager.yml").write_text(alerting.replace("/etc/alertmanager-secret", str(secrets)))
    for command in (
        ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")],
        ["promtool", "check", "rules", *map(str, rules.iterdir())],
        ["amtool", "check-config", str(tmp_path / "alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
