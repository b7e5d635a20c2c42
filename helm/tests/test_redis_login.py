"""The charts run a Redis with TLS and an ACL user, and its clients log in to it."""

import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
import yaml

from harness.kubernetes.charts import HELM, manifests, one, pod_specs
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.router_fleet import BIN, MODEL
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

PASSWORD = "a long password"
REDIS_PODS = [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "redis"}}}]


@dataclass(frozen=True)
class Secured:
    """A running Redis of the chart, and its manifests."""

    port: int
    documents: list[dict[str, Any]]
    folder: Path

    def moved(self, text: str) -> str:
        """Return ``text`` with the mount points and addresses of the pods replaced by this machine's."""
        for mounted in ("/run/secret", "/run/acl", "/run/tls", "/data", "/etc/redis"):
            text = text.replace(mounted, str(self.folder / mounted.rpartition("/")[2]))
        return text.replace("6379", str(self.port)).replace("-h redis", f"-h localhost -p {self.port}")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    for name in ("secret", "acl", "tls", "data", "redis"):
        (folder / name).mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "secret/ca.crt"))
    issued.private_key_pem.write_to_path(str(folder / "tls/tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "tls/tls.crt"))
    (folder / "secret/password").write_text(f"{PASSWORD}\n")
    values = folder / "values.yaml"
    values.write_text(
        yaml.safe_dump({"passwordSecret": "redis", "user": "platform", "tlsSecret": "redis-tls"})
    )
    made = Secured(free_port(), manifests("llm-redis", values), folder)
    config = one(made.documents, "ConfigMap", "redis")["data"]["redis.conf"]
    (folder / "redis/redis.conf").write_text(made.moved(config))
    container = one(made.documents, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"][0]

    def ready() -> bool:
        try:
            return bool(client(made, username="platform", password=PASSWORD).ping())
        except redis.ConnectionError:
            return False

    with running([made.moved(word) for word in container["command"]], log=folder / "redis.log", ready=ready):
        yield made


def client(secured: Secured, **login: Any) -> redis.Redis:
    return redis.Redis(
        "localhost", secured.port, ssl=True, ssl_ca_certs=str(secured.folder / "secret/ca.crt"), **login
    )


def test_only_the_user_with_tls_is_admitted(secured: Secured) -> None:
    for login in ({}, {"password": PASSWORD}, {"username": "platform", "password": "x"}):
        with pytest.raises(redis.AuthenticationError):
            client(secured, **login).ping()
    with pytest.raises(redis.ConnectionError):
        redis.Redis("localhost", secured.port, username="platform", password=PASSWORD).ping()
    with pytest.raises(redis.ResponseError):
        client(secured, username="platform", password=PASSWORD).flushall()


def test_the_charts_own_test_passes(secured: Secured) -> None:
    (spec,) = (spec for spec in pod_specs(secured.documents) if spec["containers"][0]["name"] == "ask")
    command = [secured.moved(word) for word in spec["containers"][0]["command"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "here" in done.stdout


def test_the_exporter_logs_in(secured: Secured, tmp_path: Path) -> None:
    exporter = one(secured.documents, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"][1]
    environment = {
        one_variable["name"]: secured.moved(one_variable["value"])
        for one_variable in exporter["env"]
        if "value" in one_variable
    }
    assert "REDIS_PASSWORD" in {variable["name"] for variable in exporter["env"]}
    port = free_port()
    with running(
        ["prometheus-redis-exporter", "--web.listen-address", f"127.0.0.1:{port}"],
        log=tmp_path / "exporter.log",
        ready=answers(f"http://127.0.0.1:{port}/"),
        env={**environment, "REDIS_PASSWORD": PASSWORD},
    ):
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert "redis_up 1" in metrics


def test_the_router_accepts_what_its_chart_renders_for_it(secured: Secured, tmp_path: Path) -> None:
    values = {
        "config": {
            "pools": {"general": {"models": [MODEL], "backends": {"a": {"url": "http://127.0.0.1:1"}}}},
            "routing": {"default_pool": "general"},
        },
        "redis": {
            "url": f"rediss://localhost:{secured.port}/0",
            "passwordSecret": "redis",
            "user": "platform",
            "caSecret": "redis-tls",
        },
        "rollout": {"enabled": True},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    documents = manifests("router-service", tmp_path / "values.yaml")
    for name in ("router-service", "router-service-rollout"):
        spec = one(documents, "Deployment", name)["spec"]["template"]["spec"]
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "secret")
        items = [source["secret"] for source in volume["projected"]["sources"]]
        assert [(item["name"], item["items"][0]["path"]) for item in items] == [
            ("redis", "password"),
            ("redis-tls", "ca.crt"),
        ]
    for folder in ("router", "router-secret", "router-weights"):
        (tmp_path / folder).mkdir()
    for name in ("password", "ca.crt"):
        (tmp_path / "router-secret" / name).write_bytes((secured.folder / "secret" / name).read_bytes())
    port = free_port()
    for name, text in one(documents, "ConfigMap", "router-service")["data"].items():
        (tmp_path / "router" / name).write_text(text.replace("port: 8000", f"port: {port}"))
    command = [str(BIN / "router-service"), "serve", "--config", str(tmp_path / "router/router.yaml")]
    with running(command, log=tmp_path / "router.log", ready=answers(f"http://127.0.0.1:{port}/healthz")):
        asked = client(secured, username="platform", password=PASSWORD)
        eventually(lambda: asked.pubsub_numsub("llm:probe-now")[0][1] == 1, "the router listens in Redis")


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis://redis:6379/0", {"to": REDIS_PODS, "ports": [{"port": 6379}]}),
        ("rediss://redis.llm.svc.cluster.local:6380/0", {"to": REDIS_PODS, "ports": [{"port": 6380}]}),
        ("rediss://cache.example.com:6380/0", {"ports": [{"port": 6380}]}),
        ("rediss://cache.example.com/0", {"ports": [{"port": 6379}]}),
    ],
)
@pytest.mark.parametrize("chart", ["router-service", "rate-limit-service"])
def test_the_network_policy_admits_the_configured_redis(
    chart: str, url: str, rule: dict[str, Any], tmp_path: Path
) -> None:
    values = yaml.safe_load((HELM / "tests/options" / f"{chart}.yaml").read_text())["base"]
    values["redis"] = {"passwordSecret": "redis", "url": url}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    policy = one(manifests(chart, tmp_path / "values.yaml"), "NetworkPolicy", chart)
    assert rule in policy["spec"]["egress"]
