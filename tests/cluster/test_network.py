"""Network policies: try every pair of pod and port and compare the result with the table of docs/deploying.md."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cluster import load
from cluster.kubectl import Kubectl, names
from cluster.platform import Platform, app

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SIMULATED = "llm-platform/backend=simulated"
OPEN = {"edge:8080"}
SCRAPED = {"edge:9902", "router:8000", "engine:8000", "agent:8001", "rate-limits:8082", "redis-exporter:9121"}
STORES = {"prometheus:9090", "alertmanager:9093"}
# Source → the ports it reaches. Everything else must time out or be refused.
ALLOWED: dict[str, set[str]] = {
    "edge": {"router:8000", "rate-limits:8081"},
    "router": {"router:8000", "engine:8000", "agent:8001", "redis:6379", "rate-limits:8081"},
    "rate-limits": {"redis:6379"},
    "engine": set(),
    "observability": OPEN | SCRAPED | STORES,
    "stranger in llm": OPEN,
    "stranger elsewhere": OPEN,
}
# The port admits every pod, and the edge's own egress rules exclude other edges. kube-router enforces the
# ingress and egress rules of one policy in one chain, so there an edge reaches another edge; other enforcers
# refuse it.
UNDECIDED = {("edge", "edge:8080")}
PROBE = """
import concurrent.futures, json, socket, sys
def reached(target):
    host, port = target
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(json.dumps(dict(zip(targets, pool.map(reached, targets.values())))))
"""


@dataclass(frozen=True)
class Source:
    """A container with Python that tries the ports."""

    namespace: str
    pod: str
    container: str
    python: str


def probe_pod(image: str, namespace: str) -> dict[str, Any]:
    """Return an idle pod with Python that no policy selects."""
    container = {
        "name": "probe", "image": image, "command": ["sleep", "600"], "securityContext": load.RESTRICTED,
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "suite-probe", "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False, "securityContext": load.POD_SECURITY, "containers": [container],
            "terminationGracePeriodSeconds": 0,
        },
    }  # fmt: skip


@pytest.fixture
def sources(platform: Platform, kubectl: Kubectl) -> Iterator[dict[str, Source]]:
    places = {
        "observability": "observability",
        "stranger in llm": "llm",
        "stranger elsewhere": load.NAMESPACE,
    }
    kubectl.apply(*(probe_pod(platform.load_image, namespace) for namespace in places.values()))
    try:
        found = {}
        for name, namespace in places.items():
            kubectl("wait", "pod/suite-probe", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
            found[name] = Source(namespace, "suite-probe", "probe", "python")
        for name, label, container, python in (
            ("edge", app("edge-gateway"), "edge", "/opt/venv/bin/python"),
            ("router", app("router-service"), "router", "/opt/venv/bin/python"),
            ("rate-limits", app("rate-limit-service"), "budgets", "/opt/venv/bin/python"),
            ("engine", SIMULATED, "engine", "/opt/agent/bin/python"),
        ):
            found[name] = Source("llm", names(kubectl.pods("llm", label))[0], container, python)
        yield found
    finally:
        for namespace in places.values():
            kubectl("delete", "pod", "suite-probe", "-n", namespace, "--ignore-not-found", "--wait=false")


def targets(kubectl: Kubectl) -> dict[str, tuple[str, int]]:
    """Return one address of every port of the platform; of replicas the newest, which is never a source."""
    found = {}
    for name, namespace, label, port in (
        ("edge:8080", "llm", app("edge-gateway"), 8080),
        ("edge:9902", "llm", app("edge-gateway"), 9902),
        ("router:8000", "llm", app("router-service"), 8000),
        ("engine:8000", "llm", SIMULATED, 8000),
        ("agent:8001", "llm", SIMULATED, 8001),
        ("rate-limits:8081", "llm", app("rate-limit-service"), 8081),
        ("rate-limits:8082", "llm", app("rate-limit-service"), 8082),
        ("redis:6379", "llm", app("redis"), 6379),
        ("redis-exporter:9121", "llm", app("redis"), 9121),
        ("prometheus:9090", "observability", app("prometheus"), 9090),
        ("alertmanager:9093", "observability", app("alertmanager"), 9093),
        ("grafana:3000", "observability", app("grafana"), 3000),
    ):
        pods = kubectl.pods(namespace, label)
        assert pods, f"no pod with {label} in {namespace}"
        found[name] = (str(pods[-1]["status"]["podIP"]), port)
    return found


def test_exactly_the_named_pods_reach_each_port(
    platform: Platform, kubectl: Kubectl, sources: dict[str, Source]
) -> None:
    platform.whole()
    addresses = targets(kubectl)
    wrong = []
    for name, source in sources.items():
        text = kubectl(
            "exec", source.pod, "-n", source.namespace, "-c", source.container, "--",
            source.python, "-c", PROBE, json.dumps(addresses),
        )  # fmt: skip
        for target, reached in json.loads(text).items():
            if (name, target) not in UNDECIDED and reached != (target in ALLOWED[name]):
                wrong.append(f"{name} {'reaches' if reached else 'does not reach'} {target}")
    print(f"\n{len(sources)} sources x {len(addresses)} ports tried")
    assert not wrong, "\n".join(wrong)
