"""Every chart with every example: rendered by the real helm, checked against Kubernetes' schemas, and run."""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import redis
import yaml

from harness.kubernetes_tools import tool
from harness.pods.network import selects
from harness.ports import free_port
from harness.processes import answers, running
from harness.router_fleet import BIN, MODEL, Fleet, fleet_in
from harness.waiting import eventually

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


@functools.cache
def template(chart: str, *values: object, **sets: str) -> subprocess.CompletedProcess[str]:
    words = [word for file in values for word in ("-f", file)]
    words += [
        word for key, value in sets.items() for word in ("--set-json", f"{key.replace('__', '.')}={value}")
    ]
    return helm("template", "release", HELM / chart, "--namespace", "llm", *words)


def manifests(chart: str, *values: object, **sets: str) -> list[dict[str, Any]]:
    done = template(chart, *values, **sets)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)
    return found


def pod_specs(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("Pod", "Deployment", "StatefulSet", "DaemonSet")
    ]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


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


# DCGM reads profiling counters of the device, and which pod holds it: root, SYS_ADMIN and one folder of the node.
NOT_RESTRICTED = {"dcgm-exporter"}


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_pods_are_restricted_bounded_and_on_a_network_of_named_edges(example: Path) -> None:
    chart = example.parents[1].name
    documents = manifests(chart, example)
    exempt = chart in NOT_RESTRICTED
    for spec in pod_specs(documents):
        assert exempt or spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(spec):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            assert exempt or "add" not in security["capabilities"]
            assert container["resources"]["limits"]["memory"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert not container["image"].endswith((":latest", ":"))
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            labels = document["spec"]["template"]["metadata"]["labels"]
            selecting = [one for one in policies if selects(one["spec"]["podSelector"], labels)]
            assert len(selecting) == 1, document["metadata"]["name"]
    accounts = [document for document in documents if document["kind"] == "ServiceAccount"]
    assert len(accounts) == (1 if pod_specs(documents) else 0)
    assert not any(account["automountServiceAccountToken"] for account in accounts)


ROUTER, EDGE, REDIS, ENGINE = "router-service", "edge-gateway", "redis", "inference-backend"
LIMITS = "rate-limit-service"
GRACE = "terminationGracePeriodSeconds"
REFUSED = {
    "a typo": (ROUTER, {"replica": "3"}, "replica"),
    "no pool": (ROUTER, {"config__pools": "{}"}, "config.pools is empty: name at least one pool"),
    "an unknown default pool": (
        ROUTER, {"config__routing__default_pool": '"x"'}, '"x" is not one of config.pools (large, small)',
    ),
    "an unknown section": (ROUTER, {"config__retry": "{}"}, "retry"),
    "two that set the number of routers": (
        ROUTER, {"keda__enabled": "true", "autoscaling__enabled": "true"}, "keda.enabled and autoscaling.enabled: both",
    ),
    "routers by KEDA without its CRD": (ROUTER, {"keda__enabled": "true"}, "keda.enabled needs the CRD keda.sh/v1alpha1"),
    "a port that the Service does not expect": (
        ROUTER, {"config__server": '{"port": 9000}'}, "config.server.port belongs to the chart (the Service expects 8000)",
    ),
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
    "TLS without a certificate": (
        EDGE, {"tls__enabled": "true", "tls__secret": '""'}, "tls.enabled and tls.secret is empty: kubectl create",
    ),
    "a certificate for nobody": (
        EDGE, {"tls__enabled": "false", "tls__certManager__enabled": "true"},
        "tls.certManager.enabled and tls.enabled is false",
    ),
    "cert-manager without its CRD": (
        EDGE, {"tls__certManager__enabled": "true"}, "tls.certManager.enabled needs the CRD cert-manager.io/v1",
    ),
    "an edge's own configuration that does not do what is said": (
        EDGE, {"envoy": '"static_resources: {}"'},
        "envoy is a configuration without budgets and budgets.enabled is true: set it to false",
    ),
    "an unknown way without budgets": (EDGE, {"budgets__whenUnavailable": '"maybe"'}, "whenUnavailable"),
    "budgets for nobody": (
        LIMITS, {"limits__default": "{}"}, "limits.default and limits.clients are empty, so nobody would be limited",
    ),
    "budgets of everybody's Redis": (LIMITS, {"redis__passwordSecret": '""'}, "redis.passwordSecret is empty"),
    "a limit that is none": (LIMITS, {"limits__default__tokens_per_hour": "9"}, "tokens_per_hour"),
    "a password where everybody reads it": (LIMITS, {"redis__url": '"redis://:secret@redis:6379/1"'}, "url"),
    "spans to two places": (
        ENGINE, {
            "weights__source": '"/models"', "tracing__endpoint": '"http://a:4317"',
            "rendered": '{"argv": ["--otlp-traces-endpoint"], "env": {}, "model": {"name": "m", "needs": {}}}',
        },
        "tracing.endpoint is set and the model file's arguments name --otlp-traces-endpoint too",
    ),
    "a collector without a port": (ENGINE, {"tracing__endpoint": '"http://alloy"'}, "endpoint"),
    "an edge that is killed while it drains": (
        EDGE, {GRACE: "600"}, f"{GRACE} 600 is not longer than the drain",
    ),
    "Redis for everybody": (REDIS, {"passwordSecret": '""'}, "passwordSecret is empty"),
    "no model": (ENGINE, {"model": '""'}, "model is empty: choose one of llama-3.1-8b-instruct-awq"),
    "an unknown model": (ENGINE, {"model": '"mistral"'}, 'model "mistral" is not a model file (known: llama'),
    "a GPU model without a GPU": (
        ENGINE, {"needs__gpus": "0"}, "needs.gpus 0: the model llama-3.1-8b-instruct-awq needs 1; a CPU cannot",
    ),
    "a CPU model with a GPU": (
        ENGINE, {"model": '"smollm2-135m-instruct"', "needs__gpus": "1", "weights__source": '"/models"'},
        "needs.gpus 1: the model file of smollm2-135m-instruct is for a CPU",
    ),
    "an engine that is killed while it drains": (
        ENGINE, {GRACE: "60"}, f"{GRACE} 60 is shorter than the drain: drainSeconds 570 + 30 = 600",
    ),
    "weights from nowhere": (
        ENGINE, {"model": '"smollm2-135m-instruct"'}, "weights.source is empty and the model file of smollm2",
    ),
    "a claim without a name": (ENGINE, {"weights__cache__kind": '"claim"'}, "weights.cache.claim is empty"),
    "a backend that is no name": (ENGINE, {"backend": '"My.Backend"'}, 'backend "My.Backend" is not a Service'),
    "a GPU judged by its CPU": (ENGINE, {"device": '"process"'}, 'device "process": the model llama'),
    "half a rendered model": (ENGINE, {"rendered": '{"argv": []}'}, "rendered.env is missing: render it with"),
    "KEDA without its CRD": (ENGINE, {"keda__enabled": "true"}, "keda.enabled needs the CRD keda.sh/v1alpha1"),
    "a pod monitor without its CRD": (
        ENGINE, {"podMonitor__enabled": "true"}, "podMonitor.enabled needs the CRD",
    ),
    "an unknown receiver": (
        "prometheus", {"alertmanager__receivers": '{"chat": {}}'}, "alertmanager.receivers has chat",
    ),
    "a bucket without a name": ("loki", {"storage__bucket": '""'}, "storage.kind is s3 and storage.bucket"),
    "a bucket without a region": ("tempo", {"storage__region": '""'}, "storage.kind is s3 and storage.region"),
    "a trace judged too early": (
        "alloy", {"sampling__decisionSeconds": "1"}, "sampling.decisionSeconds 1 is shorter than",
    ),
    "Grafana for everybody": ("grafana", {"adminSecret": '""'}, "adminSecret is empty: kubectl create secret"),
    "rules for an operator that is not there": (
        "observability", {"prometheusRule__enabled": "true"}, "prometheusRule.enabled needs the CRD",
    ),
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
    assert set(clients["matchExpressions"][0]["values"]) == {"router-service", "rate-limit-service"}
    budgets = manifests("rate-limit-service", HELM / "rate-limit-service/examples/one-budget.yaml")
    settings = yaml.safe_load(one(budgets, "ConfigMap", "rate-limit-service")["data"]["settings.yaml"])
    assert settings["budgets"]["redis_url"] == "redis://redis.llm.svc.cluster.local:6379/1"
    assert one(budgets, "Service", "rate-limit-service")["spec"]["ports"][0]["port"] == 8081
    engine = manifests(ENGINE, HELM / ENGINE / "examples/mistral-7b.yaml")
    ours = {
        container["image"].split(":")[0].split("/")[-1]
        for spec in pod_specs(router + edge + engine)
        for container in containers(spec)
    }
    assert ours <= set(CONTRACT["images"])
    grace = {
        name: one(documents, "Deployment", name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for name, documents in (
            ("router-service", router), ("edge-gateway", edge), ("mistral-7b-instruct-v02-awq", engine),
        )
    }  # fmt: skip
    assert grace["router-service"] > grace["mistral-7b-instruct-v02-awq"], "the router outlives its engines"
    assert grace["edge-gateway"] > grace["router-service"], "the edge outlives the router it drains through"


def test_a_registry_of_the_environment_and_a_digest_are_obeyed(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    values = {
        "global": {"registry": "reg.example/llm-platform"},
        "image": {"digest": digest},
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
    container, exporter = one(store, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    assert exporter["name"] == "exporter"
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


def engine_of(*values: object, **sets: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Return the pod's spec, its containers by name, and all documents."""
    documents = manifests(ENGINE, *values, **sets)
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    return spec, {container["name"]: container for container in containers(spec)}, documents


@pytest.mark.parametrize("name", ["mistral-7b", "own-cache"])
def test_an_engine_fits_the_nodes_that_terraform_makes(name: str) -> None:
    spec, parts, documents = engine_of(HELM / ENGINE / f"examples/{name}.yaml")
    gpu = CONTRACT["pools"]["gpu"]
    assert spec["nodeSelector"].items() <= gpu["labels"].items()
    (taint,) = gpu["taints"]
    assert spec["tolerations"] == [{"operator": "Equal", **taint}]
    command = parts["engine"]["command"]
    parallel = (
        command[command.index("--tensor-parallel-size") + 1] if "--tensor-parallel-size" in command else "1"
    )
    for kind in ("requests", "limits"):
        assert str(parts["engine"]["resources"][kind][CONTRACT["gpu_resource"]]) == parallel
    assert spec["serviceAccountName"] == CONTRACT["workloads"]["engine"]["service_account"]
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    key, _, value = CONTRACT["engine_selector"].partition("=")
    assert deployment["metadata"]["labels"][key] == value, "night-off scales by this"


@pytest.mark.parametrize(("chart", "workload"), [("loki", "loki"), ("tempo", "tempo")])
def test_stores_use_the_account_and_the_bucket_of_their_role(
    chart: str, workload: str, tmp_path: Path
) -> None:
    facts = CONTRACT["workloads"][workload]
    environment = {"region": "eu-central-1", "buckets": {facts["bucket"]: "made-by-terraform"}}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump({"global": environment, "storage": {"kind": "s3"}}))
    documents = manifests(chart, tmp_path / "v.yaml")
    (spec,) = (
        document["spec"]["template"]["spec"] for document in documents if document["kind"] == "StatefulSet"
    )
    assert spec["serviceAccountName"] == facts["service_account"]
    assert "made-by-terraform" in next(iter(one(documents, "ConfigMap", chart)["data"].values()))


def test_an_engine_is_probed_through_its_agent_with_time_for_the_model_and_for_the_agent() -> None:
    spec, parts, _ = engine_of(HELM / ENGINE / "examples/mistral-7b.yaml")
    engine, agent = parts["engine"], parts["agent"]
    assert agent["restartPolicy"] == "Always", "a native sidecar"
    assert "livenessProbe" not in agent, "it would restart the agent for what is wrong with the engine"
    for kind in ("startup", "readiness", "liveness"):
        assert engine[f"{kind}Probe"]["httpGet"]["port"] == 8001

    def budget(kind: str) -> int:
        probe = engine[f"{kind}Probe"]
        return int(probe["periodSeconds"] * probe["failureThreshold"])

    assert budget("startup") >= 1800
    assert budget("readiness") < 60 < budget("liveness"), "an agent may be away for a minute"
    assert engine["livenessProbe"]["httpGet"]["path"] == "/livez"
    drain = engine["lifecycle"]["preStop"]["exec"]["command"]
    (limit,) = (int(word.partition("=")[2]) for word in drain if word.startswith("--limit-seconds"))
    command = engine["command"]
    shutdown = int(command[command.index("--shutdown-timeout") + 1])
    assert spec["terminationGracePeriodSeconds"] > limit + shutdown
    assert {"name": "shm", "mountPath": "/dev/shm"} in engine["volumeMounts"]


def test_an_update_needs_a_spare_gpu_only_when_it_is_told_so() -> None:
    for name, surge in (("mistral-7b", 0), ("own-cache", 1)):
        _, _, documents = engine_of(HELM / ENGINE / f"examples/{name}.yaml")
        (deployment,) = (document for document in documents if document["kind"] == "Deployment")
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": surge,
            "maxUnavailable": 1 - surge,
        }


def test_a_model_file_of_ones_own_is_rendered_by_the_same_renderer(tmp_path: Path) -> None:
    own = (ROOT / "services/inference-backend/models/mistral-7b-instruct-v0.2-awq.yaml").read_text()
    (tmp_path / "m.yaml").write_text(
        own.replace("name: mistral-7b-instruct-v0.2-awq", "name: own").replace("gpus: 1", "gpus: 2")
    )
    words = [
        "--model-file",
        tmp_path / "m.yaml",
        "--model-path",
        "/models/own",
        "--host",
        "0.0.0.0",
        "--port",
        "8000",
    ]
    done = subprocess.run(
        [BIN / "backend-agent", "engine-command", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    _, parts, _ = engine_of(rendered=done.stdout)
    assert parts["engine"]["resources"]["limits"]["nvidia.com/gpu"] == 2
    command = parts["engine"]["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert command[command.index("--model") + 1] == "/models/own"
    assert parts["weights"]["args"][-1] == "own"


CRDS = ("--api-versions", "monitoring.coreos.com/v1", "--api-versions", "keda.sh/v1alpha1")


def with_crds(chart: str, example: str, *sets: str) -> list[dict[str, Any]]:
    words = [word for one_set in sets for word in ("--set-json", one_set)]
    done = helm(
        "template",
        "release",
        HELM / chart,
        "-n",
        "llm",
        "-f",
        HELM / chart / "examples" / example,
        *CRDS,
        *words,
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def test_keda_scales_engines_by_what_waits_and_never_by_utilisation() -> None:
    documents = with_crds(ENGINE, "mistral-7b.yaml", 'keda={"enabled": true}')
    (scaled,) = (document for document in documents if document["kind"] == "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert any("num_requests_waiting" in query for query in queries)
    assert any("request_queue_time_seconds" in query for query in queries)
    assert not any("UTIL" in query or "utilization" in query for query in queries)
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    assert "replicas" not in deployment["spec"], "KEDA owns the number"
    for query in queries:
        promql_parser.parse(query)


def test_operators_get_the_same_jobs_and_rules_as_our_own_prometheus() -> None:
    documents = with_crds(
        "observability", "default.yaml", 'prometheusRule={"enabled": true}', 'podMonitors={"enabled": true}'
    )
    own = yaml.safe_load((HELM / "prometheus/files/prometheus.yml").read_text())
    monitors = {
        document["metadata"]["name"]: document for document in documents if document["kind"] == "PodMonitor"
    }
    assert monitors.keys() == {job["job_name"] for job in own["scrape_configs"]}
    steps = monitors["vllm"]["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "backend"} in steps
    (rules,) = (document for document in documents if document["kind"] == "PrometheusRule")
    files = (HELM / "observability/files/rules").glob("*.yml")
    wanted = [group["name"] for file in sorted(files) for group in yaml.safe_load(file.read_text())["groups"]]
    assert [group["name"] for group in rules["spec"]["groups"]] == wanted


def test_files_in_charts_are_those_of_their_services(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "observability", "render", "--profile", "cluster", "--out", tmp_path], check=False, timeout=60
    )
    assert done.returncode == 0
    pairs = [
        (HELM / "prometheus/files/prometheus.yml", tmp_path / "prometheus.yml"),
        (HELM / "prometheus/files/alertmanager.yml", tmp_path / "alertmanager.yml"),
        (HELM / "observability/files/prometheus.yml", tmp_path / "prometheus.yml"),
        *(
            (HELM / "observability/files/rules" / rules.name, rules)
            for rules in (tmp_path / "rules").iterdir()
        ),
    ]
    signals = ROOT / "services/observability"
    for chart, name in (("loki", "loki.yaml"), ("tempo", "tempo.yaml"), ("alloy", "config.alloy")):
        pairs.append((HELM / chart / "files" / name, signals / chart / name))
    pairs.append((HELM / "dcgm-exporter/files/counters.csv", signals / "dcgm/counters.csv"))
    for dashboard in (signals / "grafana/dashboards").iterdir():
        pairs.append((HELM / "observability/files/dashboards" / dashboard.name, dashboard))
    for chart_dir in CHARTS:
        pairs.append((chart_dir / "templates/_names.tpl", HELM / "shared/_names.tpl"))
    for copy, home in pairs:
        assert copy.read_text() == home.read_text(), f"{name_of(copy)} differs from its home: make generate"
    for model in (ROOT / "services/inference-backend/models").glob("*.yaml"):
        done = subprocess.run(
            [
                BIN / "backend-agent", "engine-command", "--model-file", model,
                "--model-path", f"/models/{model.stem}", "--host", "0.0.0.0", "--port", "8000",
            ],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        copy = HELM / ENGINE / "files/models" / f"{model.stem}.json"
        assert copy.read_text() == done.stdout, f"{name_of(copy)}: make generate"


@pytest.mark.parametrize("example", ["notifying.yaml", "small.yaml"])
def test_prometheus_and_alertmanager_accept_what_the_chart_mounts(example: str, tmp_path: Path) -> None:
    documents = manifests("prometheus", HELM / "prometheus/examples" / example)
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
        # Debian builds Prometheus without Kubernetes discovery: all but that one section is checked.
        assert job.pop("kubernetes_sd_configs") == [
            {"role": "pod", "namespaces": {"names": ["llm", "observability"]}}
        ]
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


def test_every_scraped_port_is_one_that_a_chart_names() -> None:
    """Each job of prometheus.yml finds a container port by pod label and port name: a renamed one is silence."""
    named: set[tuple[str, str]] = set()
    for example in EXAMPLES:
        for document in manifests(example.parents[1].name, example):
            if document["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
                continue
            template_ = document["spec"]["template"]
            labels = template_["metadata"]["labels"]
            for container in containers(template_["spec"]):
                for port in container.get("ports", []):
                    for label in ("name", "component"):
                        named.add((labels.get(f"app.kubernetes.io/{label}", ""), port["name"]))
    jobs = yaml.safe_load((HELM / "prometheus/files/prometheus.yml").read_text())["scrape_configs"]
    missing = {}
    for job in jobs:
        value, _, port = job["relabel_configs"][0]["regex"].partition(";")
        if (value, port) not in named:
            missing[job["job_name"]] = (value, port)
    assert missing == {}


def test_selectors_find_their_pods_and_ports_exist() -> None:
    for example in EXAMPLES:
        documents = manifests(example.parents[1].name, example)
        pods = [
            document["spec"]["template"]
            for document in documents
            if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
        ]
        for service in (document for document in documents if document["kind"] == "Service"):
            wanted = service["spec"]["selector"].items()
            (pod,) = (pod for pod in pods if wanted <= pod["metadata"]["labels"].items())
            ports = {port["name"] for part in containers(pod["spec"]) for port in part.get("ports", [])}
            targets = {port["targetPort"] for port in service["spec"]["ports"]}
            assert targets <= ports, f"{name_of(example)}: {service['metadata']['name']}"


def test_versions_of_images_and_charts_are_those_of_versions_yaml() -> None:
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())
    listed = {(facts["source"], facts["version"]) for facts in versions["images"].values()}
    foreign = set()
    for example in EXAMPLES:
        for spec in pod_specs(manifests(example.parents[1].name, example)):
            for container in containers(spec):
                repository, _, tag = container["image"].rpartition(":")
                if not repository.startswith("llm-platform/"):
                    foreign.add((repository, tag))
    assert foreign <= listed
    for chart in CHARTS:
        facts = yaml.safe_load((chart / "Chart.yaml").read_text())
        assert versions["charts"][chart.name]["version"] == facts["version"]
