"""What no tool checks, since it lies between files: each environment rendered whole, and its parts held together.

helm/README.md says which of the platform's cross-file checks are here and where the others are.
"""

import functools
import itertools
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml

from harness.kubernetes_tools import tool
from harness.pods.network import selects
from harness.promql_names import selectors
from harness.router_fleet import fleet_in
from platform_deploy.needs import CRD_VERSIONS
from platform_deploy.releases import releases_of
from router_service.config.model import Server, TimeoutsSection
from router_service.telemetry.names import METRICS

pytestmark = pytest.mark.service

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "helm"
ENVIRONMENTS = ("dev", "kind", "prod")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
HANDED_OVER = {"global": {"region": "eu-central-1", "buckets": {"models": "m", "logs": "l", "traces": "t"}}}
NLB_IDLE_SECONDS = 350
"""A network load balancer forgets a silent connection after this; it cannot be set lower or kept longer for clients."""
DOMAIN = "svc.cluster.local"
Document = dict[str, Any]


@functools.cache
def documents_of(environment: str) -> list[Document]:
    """Return every manifest, each with its namespace."""
    found: list[Document] = []
    for release in releases_of(HELM, environment, []):
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), "-f", "-"],
            input=yaml.safe_dump(HANDED_OVER if environment != "kind" else {}),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for one in filter(None, yaml.load_all(done.stdout, yaml.CSafeLoader)):
            one["metadata"].setdefault("namespace", release.namespace)
            found.append(one)
    return found


def of_kind(environment: str, *kinds: str) -> list[Document]:
    return [one for one in documents_of(environment) if one["kind"] in kinds]


def the(environment: str, kind: str, name: str) -> Document:
    (found,) = (one for one in of_kind(environment, kind) if one["metadata"]["name"] == name)
    return found


def containers(spec: Mapping[str, Any]) -> list[Document]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def serving(environment: str) -> Iterator[tuple[str, Document]]:
    """Yield every container that stays, with the name of its workload."""
    for one in of_kind(environment, *WORKLOADS):
        for container in containers(one["spec"]["template"]["spec"]):
            if "ports" in container:
                yield f"{one['metadata']['name']}/{container['name']}", container


# -- 1: names and ports -----------------------------------------------------------------------------------------------


def addresses(value: Any) -> Iterator[tuple[str, int]]:
    """Yield each host and port that a configuration, an argument or a variable names."""
    if isinstance(value, Mapping):
        where = value.get("socket_address")
        if isinstance(where, Mapping):
            yield where["address"], where["port_value"]
        for below in value.values():
            yield from addresses(below)
    elif isinstance(value, list):
        for below in value:
            yield from addresses(below)
    elif isinstance(value, str) and "\n" in value and ":" in value.partition("\n")[0]:
        try:
            yield from addresses(yaml.load(value, yaml.CSafeLoader))
        except yaml.YAMLError:
            return
    elif isinstance(value, str):
        for host, port in re.findall(r"(?:^|[/@:])([a-z][a-z0-9.-]*[a-z0-9]):(\d{2,5})(?=$|[/#\s])", value):
            yield host, int(port)


ABSENT = {"kind": {"alloy", "loki", "tempo", "dcgm-exporter"}, "dev": set(), "prod": set()}
"""Telemetry stores and GPUs that `kind` does without: its edge drops spans, its data sources of them are empty."""


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_address_that_a_configuration_names_is_a_service_with_that_port(environment: str) -> None:
    services = {
        (one["metadata"]["name"], one["metadata"]["namespace"]): {
            port["port"] for port in one["spec"]["ports"]
        }
        for one in of_kind(environment, "Service")
    }
    seen = set()
    for document in of_kind(environment, "ConfigMap", "Pod", *WORKLOADS):
        here = document["metadata"]["namespace"]
        for host, port in addresses(document.get("data", document.get("spec"))):
            name, _, rest = host.partition(".")
            namespace = rest.removesuffix(f".{DOMAIN}").removesuffix(".svc") if rest else here
            if host in ("localhost", "0.0.0.0", "127.0.0.1") or (rest and DOMAIN not in host):
                continue
            if (name, namespace) not in services and name in ABSENT[environment]:
                continue
            assert port in services.get((name, namespace), set()), (
                f"{document['metadata']['name']}: {host}:{port}"
            )
            seen.add((name, port))
    assert {("router-service", 8000), ("redis", 6379), ("prometheus", 9090), ("alertmanager", 9093)} <= seen
    if environment == "prod":
        assert {("rate-limit-service", 8081), ("alloy", 4317), ("alloy", 4318), ("loki", 3100), ("tempo", 4317),
                ("dcgm-exporter", 9400)} <= seen  # fmt: skip


def test_monitors_select_a_service_and_a_port_that_are_there() -> None:
    for chart, sets, kind in (
        ("edge-gateway", "routesSecret=r", "ServiceMonitor"),
        ("router-service", "", "ServiceMonitor"),
        ("rate-limit-service", "", "ServiceMonitor"),
        ("inference-backend", "podMonitor.enabled=true", "PodMonitor"),
    ):
        example = sorted((HELM / chart / "examples").glob("*.yaml"))[-1]
        words = ["-f", example, "--set", sets or "serviceMonitor.enabled=true"]
        words += ["--set", "serviceMonitor.enabled=true"] if kind == "ServiceMonitor" else []
        done = subprocess.run(
            [tool("helm"), "template", "r", HELM / chart, *words, *(f"--api-versions={v}" for v in CRD_VERSIONS)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        found = [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]
        (monitor,) = (one for one in found if one["kind"] == kind)
        endpoints = monitor["spec"].get("endpoints", monitor["spec"].get("podMetricsEndpoints"))
        if kind == "ServiceMonitor":
            named = [
                {port["name"] for port in one["spec"]["ports"]}
                for one in found
                if one["kind"] == "Service"
                and selects(monitor["spec"]["selector"], one["metadata"]["labels"])
            ]
        else:
            named = [
                {
                    port["name"]
                    for part in containers(one["spec"]["template"]["spec"])
                    for port in part.get("ports", [])
                }
                for one in found
                if one["kind"] in WORKLOADS
                and selects(monitor["spec"]["selector"], one["spec"]["template"]["metadata"]["labels"])
            ]
        for endpoint in endpoints:
            assert sum(endpoint["port"] in ports for ports in named) == 1, (chart, endpoint, named)


# -- 2 and 3: how long what may take ----------------------------------------------------------------------------------


def grace(environment: str, workload: str) -> int:
    found = the(environment, "Deployment", workload)["spec"]["template"]["spec"]
    return int(found["terminationGracePeriodSeconds"])


def engines(environment: str) -> list[str]:
    return [
        one["metadata"]["name"]
        for one in of_kind(environment, "Deployment")
        if one["metadata"]["labels"].get("app.kubernetes.io/component") == "inference-engine"
    ]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_stop_hook_ends_before_the_pod_is_killed_and_layers_end_from_the_outside_in(
    environment: str,
) -> None:
    for one in of_kind(environment, *WORKLOADS):
        spec = one["spec"]["template"]["spec"]
        for container in spec["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {})
            assert "httpGet" not in hook, "Envoy and the agent want a POST"
            words = hook.get("exec", {}).get("command", [])
            limits = re.findall(r"--limit-seconds[= ](\d+)", " ".join(words))
            limits += [hook["sleep"]["seconds"]] if "sleep" in hook else []
            for limit in limits:
                assert int(limit) < spec.get("terminationGracePeriodSeconds", 30), one["metadata"]["name"]
    edge, router = grace(environment, "edge-gateway"), grace(environment, "router-service")
    assert engines(environment)
    for engine in engines(environment):
        assert edge >= router >= grace(environment, engine)
        pod = the(environment, "Deployment", engine)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        command = container["command"]
        shutdown = int(command[command.index("--shutdown-timeout") + 1])
        (limit,) = (
            int(w.partition("=")[2])
            for w in container["lifecycle"]["preStop"]["exec"]["command"]
            if "limit" in w
        )
        assert pod["terminationGracePeriodSeconds"] > limit + shutdown


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_ladder_of_times_holds(environment: str) -> None:
    config = yaml.safe_load(the(environment, "ConfigMap", "router-service")["data"]["router.yaml"])
    times = config.get("timeouts", {})
    total = times.get("total_seconds", TimeoutsSection().total_seconds)
    idle = times.get("idle_seconds", TimeoutsSection().idle_seconds)
    envoy = yaml.load(the(environment, "ConfigMap", "edge-gateway")["data"]["envoy.yaml"], yaml.CSafeLoader)
    listener = envoy["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]

    def seconds(text: str) -> float:
        return float(text.removesuffix("s"))

    assert idle < total < seconds(manager["stream_idle_timeout"])
    assert seconds(manager["stream_idle_timeout"]) < seconds(
        manager["common_http_protocol_options"]["idle_timeout"]
    )
    (router,) = (one for one in envoy["static_resources"]["clusters"] if one["name"] == "router")
    (options,) = router["typed_extension_protocol_options"].values()
    idle_to_router = seconds(options["common_http_protocol_options"]["idle_timeout"])
    settle = config["server"].get("settle_seconds", Server().settle_seconds)
    assert idle_to_router < settle, "a router that ends has no idle connection of the edge left to close"
    # The drain of the edge lasts as long as the router's longest request, by the chart's default or by its value.
    drain = the(environment, "Deployment", "edge-gateway")["spec"]["template"]["spec"]["containers"][0][
        "lifecycle"
    ]
    words = drain["preStop"]["exec"]["command"]
    assert int(words[words.index("--limit-seconds") + 1]) > total
    # Silent connections stay known to the load balancer: TCP asks more often than it forgets.
    sockets = {option["description"]: option["int_value"] for option in listener["socket_options"]}
    assert sockets["SO_KEEPALIVE"] == 1
    silent = sockets["TCP_KEEPIDLE"] + sockets["TCP_KEEPINTVL"] * sockets["TCP_KEEPCNT"]
    assert silent < NLB_IDLE_SECONDS


# -- 4 and 5: probes, budgets, replicas -------------------------------------------------------------------------------


def budget(container: Document, kind: str) -> int:
    probe = container[f"{kind}Probe"]
    return int(probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))


OF_ITSELF = {"/livez", "/healthz", "/metrics", "/-/healthy", "/api/health", "/health"}
"""Paths that answer for the process alone; none asks Redis, an engine, a store or the API server."""


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_readiness_is_quicker_than_liveness_and_liveness_asks_nobody_else(environment: str) -> None:
    for name, container in serving(environment):
        if name.endswith("/agent"):
            assert "livenessProbe" not in container
            continue
        assert budget(container, "readiness") < budget(container, "liveness"), name
        probe = container["livenessProbe"]
        assert "tcpSocket" in probe or probe["httpGet"]["path"] in OF_ITSELF, name
        if name.split("/")[0] in engines(environment):
            assert budget(container, "startup") >= 1800, "as long as docs/deploying.md gives a model"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_disruption_budget_can_be_kept_and_edge_and_router_are_two_at_least(environment: str) -> None:
    least: dict[str, int] = {}
    for one in of_kind(environment, "Deployment", "StatefulSet"):
        least[one["metadata"]["name"]] = one["spec"].get("replicas", 0)
    for one in of_kind(environment, "HorizontalPodAutoscaler"):
        assert one["spec"]["minReplicas"] <= one["spec"]["maxReplicas"]
        least[one["spec"]["scaleTargetRef"]["name"]] = one["spec"]["minReplicas"]
    for one in of_kind(environment, "PodDisruptionBudget"):
        assert least[one["metadata"]["name"]] > one["spec"]["maxUnavailable"], one["metadata"]["name"]
    if environment != "kind":
        budgets = {one["metadata"]["name"] for one in of_kind(environment, "PodDisruptionBudget")}
        for name in ("edge-gateway", "router-service"):
            assert least[name] >= 2
            assert name in budgets
    for one in of_kind(environment, "Deployment"):
        name, update = one["metadata"]["name"], one["spec"]["strategy"]
        if name in engines(environment) and environment != "kind":
            assert update["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}, "no GPU is spare here"
        elif name in ("edge-gateway", "router-service", "rate-limit-service"):
            assert update["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


# -- 6 and 7: resources, secrets, who may talk to whom ----------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_gpus_are_those_the_command_uses_and_no_manifest_holds_a_secret(environment: str) -> None:
    for one in of_kind(environment, *WORKLOADS, "Pod"):
        spec = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
        for container in containers(spec):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys()
            assert "memory" in resources["limits"]
            command = container.get("command", [])
            gpus = resources["limits"].get("nvidia.com/gpu", 0)
            if "--model" in command:
                flag = "--tensor-parallel-size"
                wanted = command[command.index(flag) + 1] if flag in command else "1"
                assert str(gpus) == (wanted if environment != "kind" else "0")
                assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert of_kind(environment, "Secret") == [], "Secrets are made by hand, no value of a chart holds one"
    text = json.dumps([one for one in documents_of(environment) if one["kind"] != "ConfigMap"])
    assert not re.search(r'"name": "[A-Z_]*(PASSWORD|TOKEN|KEY)", "value"', text)


def permits(policies: Iterable[Document], one: Document, other: Document, port: int, direction: str) -> bool:
    """Whether the policies of ``one`` let it talk with ``other`` in a direction; without any, everything may."""
    bound = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == one["namespace"]
        and selects(policy["spec"]["podSelector"], one["labels"])
    ]
    peers = "from" if direction == "ingress" else "to"
    for policy in bound:
        for rule in policy["spec"].get(direction, []):
            ports = [entry["port"] for entry in rule.get("ports", [])]
            if ports and port not in ports:
                continue
            if peers not in rule or any(_is_meant(peer, one, other) for peer in rule[peers]):
                return True
    return not bound


def _is_meant(peer: Document, one: Document, other: Document) -> bool:
    if "ipBlock" in peer:
        return False
    near = (
        selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other["namespace"]})
        if "namespaceSelector" in peer
        else one["namespace"] == other["namespace"]
    )
    return near and selects(peer.get("podSelector", {}), other["labels"])


ENGINE = {8000, 8001}
MAY_TALK: dict[str, dict[str, set[int]]] = {
    "edge-gateway": {"router-service": {8000}, "rate-limit-service": {8081}, "alloy": {4317}},
    "router-service": {"mistral-7b": ENGINE, "llama-8b": ENGINE, "redis": {6379}, "alloy": {4318}},
    "rate-limit-service": {"redis": {6379}},
    "mistral-7b": {"dcgm-exporter": {9400}, "alloy": {4317}},
    "llama-8b": {"dcgm-exporter": {9400}, "alloy": {4317}},
    "redis": {},
    "prometheus": {
        "edge-gateway": {9902}, "router-service": {8000}, "rate-limit-service": {8082}, "mistral-7b": ENGINE,
        "llama-8b": ENGINE, "redis": {9121}, "dcgm-exporter": {9400}, "prometheus": {9090}, "alertmanager": {9093},
        "grafana": {3000}, "loki": {3100}, "tempo": {3200}, "alloy": {12345},
    },
    "alertmanager": {},
    "grafana": {"prometheus": {9090}, "alertmanager": {9093}, "loki": {3100}, "tempo": {3200}},
    "alloy": {"loki": {3100}, "tempo": {4317}},
    "loki": {},
    "tempo": {},
    "dcgm-exporter": {},
}  # fmt: skip
"""Who connects to whom at which port in `prod`; the edge's 8080 is open to clients and stands apart."""


def test_in_prod_exactly_the_named_pods_may_talk_to_each_other() -> None:
    policies = of_kind("prod", "NetworkPolicy")
    pods = {
        one["metadata"]["name"]: {
            "namespace": one["metadata"]["namespace"],
            "labels": one["spec"]["template"]["metadata"]["labels"],
            "ports": {
                port["containerPort"]
                for part in containers(one["spec"]["template"]["spec"])
                for port in part.get("ports", [])
            },
        }
        for one in of_kind("prod", *WORKLOADS)
    }
    assert pods.keys() == MAY_TALK.keys()
    allowed: dict[str, dict[str, set[int]]] = {name: {} for name in pods}
    for (caller, one), (called, other) in itertools.product(pods.items(), repeat=2):
        for port in other["ports"] - ({8080} if called == "edge-gateway" else set()):
            if permits(policies, one, other, port, "egress") and permits(
                policies, other, one, port, "ingress"
            ):
                allowed[caller].setdefault(called, set()).add(port)
    assert allowed == MAY_TALK
    stranger = {"namespace": "default", "labels": {"app.kubernetes.io/name": "edge-gateway"}}
    for name, pod in pods.items():
        for port in pod["ports"]:
            assert permits(policies, pod, stranger, port, "ingress") == (
                (name, port) == ("edge-gateway", 8080)
            )


# -- 8, 9 and 14: signals and versions --------------------------------------------------------------------------------


def asked_by_keda(chart: str, example: str) -> set[str]:
    """Return the metrics in the queries of a chart's ScaledObject."""
    done = subprocess.run(
        [tool("helm"), "template", "r", HELM / chart, "--set", "keda.enabled=true", "-f",
         HELM / chart / "examples" / example, *(f"--api-versions={v}" for v in CRD_VERSIONS)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (scaled,) = (
        one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one and one["kind"] == "ScaledObject"
    )
    queries = [trigger["metadata"].get("query") for trigger in scaled["spec"]["triggers"]]
    return {selector.metric for query in queries if query for selector in selectors(query)}


def test_what_keda_asks_for_is_exposed_by_engine_and_router(tmp_path: Path) -> None:
    """The engine is the simulator, which tests/e2e/test_simulator_shape.py holds to vLLM."""
    of_engines = asked_by_keda("inference-backend", "mistral-7b.yaml")
    with fleet_in(tmp_path) as fleet:
        page = httpx.get(f"{fleet.add_engine('engine-a').url}/metrics", timeout=20).text
    assert of_engines
    assert of_engines <= set(re.findall(r"^([a-z:_]+)(?:\{| )", page, re.MULTILINE))
    of_routers = asked_by_keda("router-service", "two-pools.yaml")
    own = {metric.name for metric in METRICS}
    assert {re.sub("_(sum|count)$", "", name) for name in of_routers} == {"router_event_loop_lag_seconds"}
    assert "router_event_loop_lag_seconds" in own


def test_every_alert_of_the_charts_has_what_its_receiver_needs() -> None:
    rules = the("prod", "ConfigMap", "llm-platform-rules")["data"]
    groups = [group for text in rules.values() for group in yaml.safe_load(text)["groups"]]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert {"summary", "description", "runbook_url"} <= alert["annotations"].keys(), alert["alert"]
        assert (ROOT / "docs" / "runbooks" / f"{alert['alert']}.md").is_file()
        assert alert["annotations"]["runbook_url"].endswith(f"docs/runbooks/{alert['alert']}.md")
        promql_parser.parse(alert["expr"])


def test_dashboards_fit_a_config_map_that_grafanas_sidecar_finds_too() -> None:
    boards = the("prod", "ConfigMap", "llm-platform-dashboards")
    assert boards["metadata"]["labels"]["grafana_dashboard"]
    assert len(json.dumps(boards).encode()) < 1024 * 1024, "what etcd takes"
    uids = [json.loads(text)["uid"] for text in boards["data"].values()]
    assert len(set(uids)) == len(uids) > 5
    used = {
        match
        for text in boards["data"].values()
        for match in re.findall(r'"datasource": \{[^}]*"uid": "([^"]+)"', text)
    }
    assert all(uid.startswith("${") or uid == "-- Grafana --" for uid in used), used


def test_a_charts_app_version_is_the_version_of_what_it_runs() -> None:
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())
    by_source = {
        facts["source"].rpartition("/")[2]: facts["version"] for facts in versions["images"].values()
    }
    for chart in sorted(HELM.glob("*/Chart.yaml")):
        facts = yaml.safe_load(chart.read_text())
        values = yaml.safe_load((chart.parent / "values.yaml").read_text())
        repository = values.get("image", {}).get("repository", "")
        ours = not repository or repository.startswith("llm-platform/")
        wanted = facts["version"] if ours else by_source[repository]
        assert str(facts["appVersion"]) == wanted, chart.parent.name
