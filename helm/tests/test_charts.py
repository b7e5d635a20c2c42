"""Every chart with every example: rendered by the real helm, checked against Kubernetes' schemas, and run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from harness.kubernetes_tools import tool
from harness.ports import free_port
from harness.processes import answers, running
from harness.router_fleet import BIN, MODEL, Fleet, eventually, fleet_in

pytestmark = pytest.mark.service

HELM = Path(__file__).resolve().parents[1]
ROOT = HELM.parent
CHARTS = sorted(path.parent for path in HELM.glob("*/Chart.yaml"))
EXAMPLES = sorted(HELM.glob("*/examples/*.yaml"))
VALIDATE = ROOT / ".venv-tools" / "bin" / "kubernetes-validate"
CONTRACT = yaml.safe_load((ROOT / "infrastructure" / "contract.yaml").read_text())


def helm(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("helm"), *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


def template(chart: str, *values: object, **sets: str) -> subprocess.CompletedProcess[str]:
    words = [word for file in values for word in ("-f", file)]
    words += [
        word for key, value in sets.items() for word in ("--set-json", f"{key.replace('__', '.')}={value}")
    ]
    return helm("template", "release", HELM / chart, "--namespace", "llm", *words)


def manifests(chart: str, *values: object, **sets: str) -> list[dict[str, Any]]:
    done = template(chart, *values, **sets)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)
    return found


def pod_specs(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("Pod", "Deployment", "StatefulSet")
    ]


def name_of(path: Path) -> str:
    return str(path.relative_to(HELM))


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_lints_and_fits_the_schemas_of_kubernetes(example: Path, tmp_path: Path) -> None:
    chart = example.parents[1]
    lint = helm("lint", "--strict", chart, "-f", example)
    assert lint.returncode == 0, lint.stdout
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(template(chart.name, example).stdout)
    for version in ("1.31", "1.35"):
        done = subprocess.run(
            [VALIDATE, "-k", version, "--strict", rendered],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "WARN" not in said, said
        assert said.count("passed") == len(manifests(chart.name, example))


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_pods_are_restricted_bounded_and_on_a_network_of_named_edges(example: Path) -> None:
    documents = manifests(example.parents[1].name, example)
    for spec in pod_specs(documents):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert not container["image"].endswith((":latest", ":"))
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    assert [policy["spec"]["policyTypes"] for policy in policies] == [["Ingress", "Egress"]]
    accounts = [document for document in documents if document["kind"] == "ServiceAccount"]
    assert [account["automountServiceAccountToken"] for account in accounts] == [False]


ROUTER, EDGE, REDIS = "router-service", "edge-gateway", "redis"
GRACE = "terminationGracePeriodSeconds"
REFUSED = {
    "a typo": (ROUTER, {"replica": "3"}, "replica"),
    "no pool": (ROUTER, {"config__pools": "{}"}, "config.pools is empty: name at least one pool"),
    "an unknown default pool": (
        ROUTER, {"config__routing__default_pool": '"x"'}, '"x" is not one of config.pools (large, small)',
    ),
    "an unknown section": (ROUTER, {"config__retry": "{}"}, "retry"),
    "no Redis password": (ROUTER, {"redis__passwordSecret": '""'}, "redis.passwordSecret is empty"),
    "one replica with a budget": (ROUTER, {"replicas": "1"}, "pdb.enabled with 1 replicas"),
    "zero replicas": (ROUTER, {"replicas": "0"}, "replicas"),
    "a short grace period": (ROUTER, {GRACE: "30"}, f"{GRACE} 30 is shorter than the drain"),
    "root": (ROUTER, {"runAsUser": "0"}, "runAsUser"),
    "a digest that is none": (ROUTER, {"image__digest": '"sha256:12"'}, "digest"),
    "a monitor without its CRD": (
        ROUTER, {"serviceMonitor__enabled": "true"}, "serviceMonitor.enabled needs the CRD",
    ),
    "no keys": (EDGE, {"routesSecret": '""'}, "routesSecret is empty"),
    "an edge that is killed while it drains": (
        EDGE, {GRACE: "600"}, f"{GRACE} 600 is not longer than the drain",
    ),
    "Redis for everybody": (REDIS, {"passwordSecret": '""'}, "passwordSecret is empty"),
    "a size without a unit": (REDIS, {"persistence__size": '"2"'}, "size"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_by_name(case: str) -> None:
    chart, sets, said = REFUSED[case]
    example = sorted((HELM / chart / "examples").glob("*.yaml"))[-1 if chart != "router-service" else 0]
    done = template(chart, example, **sets)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("chart", CHARTS, ids=name_of)
def test_every_value_has_a_schema_and_every_schema_key_a_value(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == values.keys()


def test_charts_agree_with_each_other_and_with_the_cluster() -> None:
    router = manifests("router-service", HELM / "router-service/examples/two-pools.yaml")
    edge = manifests("edge-gateway", HELM / "edge-gateway/examples/internal.yaml")
    store = manifests("redis", HELM / "redis/examples/cache.yaml")
    assert one(router, "Service", "router-service")["spec"]["ports"][0]["port"] == 8000
    assert one(store, "Service", "redis")["spec"]["ports"][0]["port"] == 6379
    envoy = one(edge, "ConfigMap", "edge-gateway")["data"]["envoy.yaml"]
    assert "router-service.llm.svc.cluster.local" in envoy
    configuration = yaml.safe_load(one(router, "ConfigMap", "router-service")["data"]["router.yaml"])
    assert configuration["redis"]["url"] == "redis://redis.llm.svc.cluster.local:6379/0"
    engines = one(router, "NetworkPolicy", "router-service")["spec"]["egress"][0]["to"][0]["podSelector"]
    key, _, value = CONTRACT["engine_selector"].partition("=")
    assert engines["matchLabels"] == {key: value}
    clients = one(store, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert {"router-service", "edge-gateway"} <= set(clients["matchExpressions"][0]["values"])
    ours = {spec["containers"][0]["image"].split(":")[0].split("/")[-1] for spec in pod_specs(router + edge)}
    assert ours <= set(CONTRACT["images"])
    grace = {
        name: one(documents, "Deployment", name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for name, documents in (("router-service", router), ("edge-gateway", edge))
    }
    assert grace["edge-gateway"] > grace["router-service"], "the edge outlives the router it drains through"


def test_the_edges_configuration_is_the_one_its_service_renders() -> None:
    golden = ROOT / "services/edge-gateway/tests/goldens/cluster/envoy.yaml"
    assert (HELM / "edge-gateway/files/envoy.yaml").read_text() == golden.read_text(), "run: make generate"
    edge = manifests("edge-gateway", HELM / "edge-gateway/examples/internal.yaml")
    mounted = one(edge, "ConfigMap", "edge-gateway")["data"]["envoy.yaml"]
    assert yaml.safe_load(mounted) == yaml.safe_load(golden.read_text())


def test_a_registry_of_the_environment_and_a_digest_are_obeyed(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    values = {
        "global": {"registry": "reg.example/llm-platform"},
        "image": {"repository": "router-service", "digest": digest},
    }
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(values))
    router = manifests("router-service", HELM / "router-service/examples/two-pools.yaml", tmp_path / "v.yaml")
    images = {spec["containers"][0]["image"] for spec in pod_specs(router)}
    assert images == {f"reg.example/llm-platform/router-service@{digest}"}


@pytest.mark.parametrize("example", sorted((HELM / "router-service/examples").glob("*.yaml")), ids=name_of)
def test_the_router_itself_accepts_the_configuration_of_the_chart(example: Path, tmp_path: Path) -> None:
    data = one(manifests("router-service", example), "ConfigMap", "router-service")["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [BIN / "router-service", "check", "--config", tmp_path / "router.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_redis_and_router_run_from_the_charts_own_commands_and_pass_their_probes(tmp_path: Path) -> None:
    """Commands, configuration and probes are the rendered ones; only the mount points and ports are moved."""
    with fleet_in(tmp_path) as fleet:
        _run_from_manifests(fleet, tmp_path)


def _run_from_manifests(fleet: Fleet, folder: Path) -> None:
    engine = fleet.add_engine("engine-a")
    places = {place: folder / name for place, name in (
        ("/run/secret", "secret"), ("/run/acl", "acl"), ("/data", "data"), ("/etc/redis", "redis"),
        ("/etc/router-secret", "router-secret"), ("/etc/router", "router"),
    )}  # fmt: skip
    for place in places.values():
        place.mkdir()
    (places["/run/secret"] / "password").write_text("a long password\n")
    (places["/etc/router-secret"] / "password").write_text("a long password\n")
    port = free_port()

    def moved(text: str) -> str:
        for mounted, real in places.items():
            text = text.replace(mounted, str(real))
        return text

    store = manifests("redis", HELM / "redis/examples/cache.yaml")
    config = one(store, "ConfigMap", "redis")["data"]["redis.conf"].replace("port 6379", f"port {port}")
    (places["/etc/redis"] / "redis.conf").write_text(moved(config))
    (container,) = one(store, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    command = [moved(word) for word in container["command"]]

    def ready() -> bool:
        try:
            return bool(redis.Redis(port=port, password="a long password").ping())
        except redis.RedisError:
            return False

    with running(command, log=folder / "redis.log", ready=ready):
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        with pytest.raises(redis.ResponseError):
            redis.Redis(port=port, password="a long password").flushall()
        values = {
            "config": {
                "pools": {"general": {"models": [MODEL], "backends": {"engine-a": {"url": engine.url}}}},
                "routing": {"default_pool": "general"},
            },
            "redis": {"url": f"redis://127.0.0.1:{port}/0", "passwordSecret": "redis"},
        }
        (folder / "values.yaml").write_text(yaml.safe_dump(values))
        documents = manifests("router-service", folder / "values.yaml")
        (container,) = one(documents, "Deployment", "router-service")["spec"]["template"]["spec"][
            "containers"
        ]
        own_port = free_port()
        for name, text in one(documents, "ConfigMap", "router-service")["data"].items():
            (places["/etc/router"] / name).write_text(text.replace("port: 8000", f"port: {own_port}"))
        url = f"http://127.0.0.1:{own_port}"
        startup, readiness, liveness = (
            container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
        )
        with running(
            [BIN / "router-service", *(moved(word) for word in container["args"])],
            log=folder / "router.log",
            ready=answers(url + startup["path"]),
        ):
            for probe in (readiness, liveness):
                assert httpx.get(url + probe["path"]).status_code == 200
            body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
            answer = eventually(
                lambda: _answered(url, body), "a chat completion is answered from the rendered manifests"
            )
            assert answer["choices"][0]["message"]["content"]
            pins = redis.Redis(port=port, password="a long password")
            eventually(
                lambda: list(pins.scan_iter("llm:session:*")), "the session is pinned in the chart's Redis"
            )
            (script,) = (
                spec["containers"][0]["command"][2]
                for spec in pod_specs(documents)
                if "command" in spec["containers"][0]
            )
            asked = script.replace("http://router-service:8000", url)
            done = subprocess.run(
                ["python3", "-c", asked], capture_output=True, text=True, check=False, timeout=30
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["data"][0]["id"] == MODEL, "helm test asks for the models"


def _answered(url: str, body: dict[str, Any]) -> dict[str, Any] | None:
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-session-id": "s"}, timeout=20)
    return answer.json() if answer.status_code == 200 else None
