"""Every environment fits its nodes: CPU, memory, GPUs and pods, with add-ons and a rolling update.

Capacities and add-ons come from node_capacity.yaml, node groups from infrastructure/node-groups.yaml, requests from the
rendered manifests. Pods are packed first-fit decreasing onto nodes of each instance type that AWS may start.
"""

import functools
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.tools import tool
from platform_tools.deploy.releases import releases_of

pytestmark = pytest.mark.programs

HELM = Path(__file__).resolve().parents[1]
ROOT = HELM.parent
CAPACITY: Mapping[str, Any] = yaml.safe_load((HELM / "tests/node_capacity.yaml").read_text())
GROUPS: Mapping[str, Any] = yaml.safe_load((ROOT / "infrastructure/node-groups.yaml").read_text())
POOLS = [(environment, pool) for environment in GROUPS for pool in GROUPS[environment]]
UPSTREAM: tuple[Mapping[str, Any], ...] = tuple(
    yaml.safe_load((HELM / "releases.yaml").read_text())["upstream"]
)
GPU = "nvidia.com/gpu"
WORKLOADS = ("Deployment", "StatefulSet")
HANDED_OVER = {"global": {"region": "eu-central-1", "buckets": {"models": "m", "logs": "l", "traces": "t"}}}
HEAP_SHARE = 0.70
"""Part of its memory limit that Envoy's heap may take: the rest is its threads, connections and caches."""


@dataclass(frozen=True)
class Request:
    """The requests of a pod: milli-CPU, MiB and whole GPUs."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int = 0


@dataclass
class Node:
    """The free resources of a node."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    pods: int
    taken: list[str] = field(default_factory=list)

    def takes(self, pod: Request) -> bool:
        """Reserve the pod's requests; return False if one does not fit."""
        fits = (
            pod.cpu_milli <= self.cpu_milli
            and pod.memory_mib <= self.memory_mib
            and pod.gpus <= self.gpus
            and self.pods > 0
        )
        if fits:
            self.cpu_milli -= pod.cpu_milli
            self.memory_mib -= pod.memory_mib
            self.gpus -= pod.gpus
            self.pods -= 1
            self.taken.append(pod.name)
        return fits


def milli(quantity: object) -> int:
    text = str(quantity)
    return int(text.removesuffix("m")) if text.endswith("m") else int(float(text) * 1000)


def mib(quantity: object) -> int:
    text = str(quantity)
    unit = {"Gi": 1024.0, "Mi": 1.0, "Ki": 1 / 1024}[text[-2:]]
    return int(float(text[:-2]) * unit)


def reserved_cpu(vcpu: int) -> float:
    """Return the milli-CPUs that EKS reserves on a node for kubelet and runtime."""
    steps = [60.0, 10.0, 5.0, 5.0]
    return sum(steps[:vcpu]) + 2.5 * max(0, vcpu - len(steps))


def empty_node(instance_type: str, max_pods: int) -> Node:
    """Return an EKS node before any pod, by the formula of node_capacity.yaml."""
    facts = CAPACITY["instance_types"][instance_type]
    memory = facts["memory_mib"] * (1 - CAPACITY["memory_overhead"])
    return Node(
        cpu_milli=int(facts["vcpu"] * 1000 - reserved_cpu(facts["vcpu"])),
        memory_mib=int(memory - (255 + 11 * max_pods) - CAPACITY["eviction_mib"]),
        gpus=facts["gpus"],
        pods=max_pods,
    )


@functools.cache
def documents_of(environment: str) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for release in releases_of(HELM, environment, []):
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), "-f", "-"],
            input=yaml.safe_dump(HANDED_OVER if environment != "kind" else {}),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found += [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]
    return tuple(found)


def request_of(name: str, spec: Mapping[str, Any]) -> Request:
    """Return a pod's request; sidecars run with the containers, other init containers before them."""
    sides, first = [], []
    for container in spec.get("initContainers", []):
        (sides if container.get("restartPolicy") == "Always" else first).append(container)

    def total(containers: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
        asked = [container["resources"]["requests"] for container in containers]
        return (
            sum(milli(one["cpu"]) for one in asked),
            sum(mib(one["memory"]) for one in asked),
            sum(int(one.get(GPU, 0)) for one in asked),
        )

    cpu, memory, gpus = total([*spec["containers"], *sides])
    alone = [total([one]) for one in first]
    return Request(
        name, max([cpu, *(one[0] for one in alone)]), max([memory, *(one[1] for one in alone)]), gpus
    )


def replicas_of(environment: str, workload: Mapping[str, Any]) -> int:
    """Return the least number of pods: an autoscaler's minimum, or the workload's own number."""
    for one in documents_of(environment):
        if one["kind"] == "HorizontalPodAutoscaler":
            target = one["spec"]["scaleTargetRef"]
            if (target["kind"], target["name"]) == (workload["kind"], workload["metadata"]["name"]):
                return int(one["spec"]["minReplicas"])
    return int(workload["spec"].get("replicas", 1))


def pods_of(environment: str, pool: str) -> Iterator[Request]:
    """Yield the request of each pod of a pool, and last that of the surge pod of the largest rolling update."""
    surges = []
    for one in documents_of(environment):
        if one["kind"] not in WORKLOADS:
            continue
        spec = one["spec"]["template"]["spec"]
        request = request_of(one["metadata"]["name"], spec)
        if (request.gpus > 0) != (pool == "gpu"):
            continue
        yield from [request] * replicas_of(environment, one)
        if one["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge"):
            surges.append(
                Request(f"{request.name} (surge)", request.cpu_milli, request.memory_mib, request.gpus)
            )
    yield from sorted(surges, key=lambda one: (one.cpu_milli, one.memory_mib))[-1:]


def upstream_pods(environment: str, resource: str) -> Iterator[tuple[str, Request, int]]:
    """Yield purpose, request and number of pods for each upstream chart."""
    for chart in UPSTREAM:
        if environment not in chart.get("environments", [environment]):
            continue
        if chart["workload"].startswith(f"{resource}/"):
            values = yaml.safe_load((HELM / f"upstream/{chart['name']}.yaml").read_text())
            asked = values["resources"]["requests"]
            request = Request(chart["name"], milli(asked["cpu"]), mib(asked["memory"]))
            yield chart["needed_for"], request, values.get("replicaCount", 1)


def daemons_of(environment: str, pool: str) -> Iterator[Request]:
    """Yield the pods that run on every node of a pool: add-ons, upstream charts and our daemon sets."""
    addons = CAPACITY["every_node"] | (CAPACITY["every_gpu_node"] if pool == "gpu" else {})
    for name, facts in addons.items():
        yield Request(name, facts["cpu_milli"], facts["memory_mib"])
    for needed_for, request, _ in upstream_pods(environment, "daemonsets"):
        if pool == "gpu" or needed_for != "gpus":
            yield request
    for one in documents_of(environment):
        if one["kind"] == "DaemonSet" and pool == "gpu":
            yield request_of(one["metadata"]["name"], one["spec"]["template"]["spec"])


def unplaced(nodes: list[Node], pods: Iterable[Request]) -> list[str]:
    """Place the largest pods first, each on the emptiest node where it fits; return the pods that fit nowhere."""
    left = []
    for pod in sorted(pods, key=lambda one: (one.gpus, one.cpu_milli, one.memory_mib), reverse=True):
        if not any(node.takes(pod) for node in sorted(nodes, key=lambda one: -one.cpu_milli)):
            left.append(f"{pod.name} ({pod.cpu_milli}m, {pod.memory_mib} MiB, {pod.gpus} GPU)")
    return left


def filled(environment: str, pool: str, instance_type: str) -> tuple[list[Node], list[str]]:
    """Return the nodes of a pool with their pods placed, and the pods that fit nowhere."""
    group = GROUPS[environment][pool]
    nodes = [empty_node(instance_type, group["max_pods"]) for _ in range(group["size"]["desired"])]
    for node in nodes:
        for daemon in daemons_of(environment, pool):
            assert node.takes(daemon), daemon
    extra = CAPACITY["system_pods"] if pool == "system" else {}
    pods = [
        Request(name, facts["cpu_milli"], facts["memory_mib"])
        for name, facts in extra.items()
        for _ in range(facts["replicas"])
    ]
    if pool == "system":
        for _, request, replicas in upstream_pods(environment, "deployments"):
            pods += [request] * replicas
    return nodes, unplaced(nodes, [*pods, *pods_of(environment, pool)])


@pytest.mark.parametrize(("environment", "pool"), POOLS)
def test_a_pool_takes_all_its_pods_and_the_surge_of_an_update(environment: str, pool: str) -> None:
    for instance_type in GROUPS[environment][pool]["instance_types"]:
        nodes, left = filled(environment, pool, instance_type)
        assert left == [], f"{environment}, {pool}, {instance_type}: no room for {left}; free: {nodes}"


def test_a_laptop_takes_kind() -> None:
    facts = CAPACITY["kind"]
    node = Node(facts["cpu_milli"], facts["memory_mib"], 0, facts["pods"])
    pods = list(pods_of("kind", "system"))
    assert unplaced([node], pods) == [], node


@pytest.mark.parametrize(("environment", "pool"), POOLS)
def test_a_pod_larger_than_its_nodes_is_found(environment: str, pool: str) -> None:
    """Plant a fault: request one MiB, milli-CPU or GPU more than any node of the pool has."""
    for instance_type in GROUPS[environment][pool]["instance_types"]:
        full = empty_node(instance_type, GROUPS[environment][pool]["max_pods"])
        for planted in (
            Request("cpu", full.cpu_milli + 1, 0),
            Request("memory", 0, full.memory_mib + 1),
            Request("gpu", 0, 0, full.gpus + 1),
        ):
            assert unplaced([empty_node(instance_type, 110)], [planted]), planted.name
        assert unplaced([Node(10, 10, 0, 1)], [Request("a", 1, 1), Request("b", 1, 1)]), "one pod too many"


@pytest.mark.parametrize("environment", ["dev", "kind", "prod"])
def test_shared_memory_holds_the_offload_and_is_counted_once(environment: str) -> None:
    """On CUDA vLLM keeps its KV offload in /dev/shm and refuses to start if that is smaller."""
    engines = 0
    for one in documents_of(environment):
        spec = one.get("spec", {}).get("template", {}).get("spec", {})
        for container in spec.get("containers", []):
            if container["name"] != "engine":
                continue
            engines += 1
            command = container["command"]
            flag = "--kv-offloading-size"
            offload = float(command[command.index(flag) + 1]) if flag in command else 0.0
            (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "shm")
            shared = mib(volume["emptyDir"]["sizeLimit"])
            assert shared >= (offload + (1 if offload else 0)) * 1024, one["metadata"]["name"]
            (model,) = (
                yaml.safe_load(document["data"]["model.yaml"])
                for document in documents_of(environment)
                if document["kind"] == "ConfigMap" and document["metadata"]["name"] == one["metadata"]["name"]
            )
            limit = mib(container["resources"]["limits"]["memory"])
            assert limit == model["needs"]["memory_gib"] * 1024 + shared
            assert limit == mib(container["resources"]["requests"]["memory"])
    assert engines


@pytest.mark.parametrize("environment", ["dev", "kind", "prod"])
def test_envoy_sheds_load_before_the_kernel_kills_it(environment: str) -> None:
    by_kind = {
        one["kind"]: one
        for one in documents_of(environment)
        if one["metadata"]["name"] == "edge-gateway" and one["kind"] in ("ConfigMap", "Deployment")
    }
    envoy = yaml.load(by_kind["ConfigMap"]["data"]["envoy.yaml"], yaml.CSafeLoader)
    (heap,) = (
        monitor["typed_config"]["max_heap_size_bytes"]
        for monitor in envoy["overload_manager"]["resource_monitors"]
        if monitor["name"] == "envoy.resource_monitors.fixed_heap"
    )
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert heap <= HEAP_SHARE * mib(container["resources"]["limits"]["memory"]) * 1024 * 1024
