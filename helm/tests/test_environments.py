"""Consistency between files: each environment is rendered whole and its components are compared.

helm/README.md lists the platform's cross-file checks and their tests.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from harness.kubernetes.environments import (
    ENVIRONMENTS,
    HELM,
    WORKLOADS,
    Document,
    containers,
    engines,
    of_kind,
    serving,
    the,
)
from harness.kubernetes.tools import tool
from platform_tools.deploy.needs import CRD_VERSIONS
from podrunner.network import selects
from router_service.config.model import Server, TimeoutsSection

pytestmark = pytest.mark.programs

NLB_IDLE_SECONDS = 350
"""A network load balancer forgets a silent connection after this; it cannot be set lower or kept longer for clients."""


DOMAIN = "svc.cluster.local"


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


SMALL = {"alloy", "loki", "tempo", "dcgm-exporter"}


ABSENT = {"kind": SMALL, "sim": SMALL, "dev": set(), "prod": set()}
"""Telemetry stores and GPUs that `kind` and `sim` do without: spans are dropped, data sources of them are empty."""


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


def grace(environment: str, workload: str) -> int:
    found = the(environment, "Deployment", workload)["spec"]["template"]["spec"]
    return int(found["terminationGracePeriodSeconds"])


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
    # With TLS, the edge also closes connections that nobody has authenticated, within seconds.
    if "transport_socket" not in listener["filter_chains"][0]:
        connection_idle = seconds(manager["common_http_protocol_options"]["idle_timeout"])
        assert seconds(manager["stream_idle_timeout"]) < connection_idle
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
    # Idle connections stay open in the load balancer: TCP keep-alives are more frequent than its idle
    # timeout.
    sockets = {option["description"]: option["int_value"] for option in listener["socket_options"]}
    assert sockets["SO_KEEPALIVE"] == 1
    silent = sockets["TCP_KEEPIDLE"] + sockets["TCP_KEEPINTVL"] * sockets["TCP_KEEPCNT"]
    assert silent < NLB_IDLE_SECONDS


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
