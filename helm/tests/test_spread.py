"""Pods are on different nodes after rolling updates, by the scheduler's formula for topology spread.

Each constraint is read from the rendered manifest. The simulated scheduler filters nodes as PodTopologySpread does
(https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/) and then takes any
remaining node, because ScheduleAnyway is only a score that other scores may outweigh.
"""

import functools
import random
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import HELM, read
from harness.kubernetes.tools import tool

pytestmark = pytest.mark.programs

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
SPREAD = ("edge-gateway", "router-service", "rate-limit-service")
ROLLOUTS = 3


@dataclass(frozen=True)
class Node:
    """A node; ``tainted`` means that the pod does not tolerate its taint."""

    name: str
    zone: str
    tainted: bool = False

    def domain(self, key: str) -> str:
        return {HOST: self.name, ZONE: self.zone}[key]


@dataclass(frozen=True)
class Pod:
    revision: int
    node: str


@dataclass
class Cluster:
    """Nodes, running pods, and a scheduler that takes any node that no hard constraint excludes."""

    nodes: list[Node]
    constraints: list[Mapping[str, Any]]
    dice: random.Random
    pods: list[Pod] = field(default_factory=list)

    def feasible(self, revision: int) -> list[Node]:
        """Return the nodes that accept a new pod of ``revision``."""
        free = [node for node in self.nodes if not node.tainted]
        return [node for node in free if all(self._fits(rule, node, revision) for rule in self.constraints)]

    def _fits(self, rule: Mapping[str, Any], node: Node, revision: int) -> bool:
        if rule["whenUnsatisfiable"] != "DoNotSchedule":
            return True
        key = rule["topologyKey"]
        honored = rule.get("nodeTaintsPolicy", "Ignore") == "Honor"
        counted = [one for one in self.nodes if not (honored and one.tainted)]
        counts = dict.fromkeys((one.domain(key) for one in counted), 0)
        where = {one.name: one.domain(key) for one in counted}
        for pod in self.pods:
            same = pod.revision == revision or "pod-template-hash" not in rule.get("matchLabelKeys", [])
            if same and pod.node in where:
                counts[where[pod.node]] += 1
        least = min(counts.values()) if len(counts) >= rule.get("minDomains", 1) else 0
        return counts[node.domain(key)] + 1 - least <= rule["maxSkew"]

    def start(self, revision: int) -> bool:
        """Place one pod; return False if it stays pending."""
        nodes = self.feasible(revision)
        if nodes:
            self.pods.append(Pod(revision, self.dice.choice(nodes).name))
        return bool(nodes)

    def roll(self, replicas: int, revision: int) -> None:
        """Replace all pods with maxSurge 1 and maxUnavailable 0, the old ones in any order."""
        for _ in range(replicas):
            assert self.start(revision), f"pending on {self.nodes} beside {self.pods}"
            old = [pod for pod in self.pods if pod.revision != revision]
            if len(self.pods) > replicas and old:
                self.pods.remove(self.dice.choice(old))
        while len(self.pods) > replicas:
            self.pods.remove(self.dice.choice([pod for pod in self.pods if pod.revision != revision]))

    def per_node(self) -> Counter[str]:
        return Counter(pod.node for pod in self.pods)


def nodes(count: int, zones: int = 1) -> list[Node]:
    return [Node(f"node-{number}", f"zone-{number % zones}") for number in range(count)]


@functools.cache
def constraints_of(chart: str) -> list[Mapping[str, Any]]:
    values = read(HELM / "tests/options" / f"{chart}.yaml").get("base", {})
    done = subprocess.run(
        [tool("helm"), "template", "r", HELM / chart, "-f", "-"],
        input=yaml.safe_dump(values), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (found,) = (
        one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        for one in yaml.load_all(done.stdout, yaml.CSafeLoader)
        if one and one["kind"] == "Deployment"
    )
    return list(found)


def rolled(rules: list[Mapping[str, Any]], on: Iterable[Node], replicas: int, seed: int) -> Cluster:
    """Return a cluster after an installation and ``ROLLOUTS`` rolling updates."""
    cluster = Cluster(list(on), rules, random.Random(seed))
    for _ in range(replicas):
        assert cluster.start(0), "pending at installation"
    for revision in range(1, ROLLOUTS + 1):
        cluster.roll(replicas, revision)
    return cluster


@pytest.mark.parametrize("chart", SPREAD)
@pytest.mark.parametrize(("hosts", "zones"), [(2, 1), (2, 2), (3, 3), (5, 3)])
@pytest.mark.parametrize("replicas", [2, 3, 5])
def test_no_node_carries_more_than_its_share_after_three_rollouts(
    chart: str, hosts: int, zones: int, replicas: int
) -> None:
    rules = constraints_of(chart)
    for seed in range(50):
        counts = rolled(rules, nodes(hosts, zones), replicas, seed).per_node()
        assert sum(counts.values()) == replicas
        assert max(counts.values()) == -(-replicas // hosts), (seed, counts)


@pytest.mark.parametrize("chart", SPREAD)
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_one_node_takes_every_replica_and_its_surge(chart: str, replicas: int) -> None:
    assert rolled(constraints_of(chart), nodes(1), replicas, 0).per_node() == {"node-0": replicas}


@pytest.mark.parametrize("chart", SPREAD)
def test_a_cordoned_or_unreachable_node_leaves_no_pod_pending(chart: str) -> None:
    """The remaining node gets all pods of a drained one, and a rollout completes there."""
    rules = constraints_of(chart)
    cluster = rolled(rules, nodes(2), 2, 0)
    cluster.nodes[0] = replace(cluster.nodes[0], tainted=True)
    cluster.pods = [pod for pod in cluster.pods if pod.node != "node-0"]
    assert cluster.start(ROLLOUTS), "the evicted pod starts on the other node"
    cluster.roll(2, ROLLOUTS + 1)
    assert cluster.per_node() == {"node-1": 2}


@pytest.mark.parametrize("chart", ["inference-backend", *SPREAD])
def test_zones_are_a_wish_and_count_one_revision_only(chart: str) -> None:
    by_key = {rule["topologyKey"]: rule for rule in constraints_of(chart)}
    assert by_key.keys() == {HOST, ZONE}
    assert by_key[ZONE]["whenUnsatisfiable"] == "ScheduleAnyway"
    for rule in by_key.values():
        assert rule["matchLabelKeys"] == ["pod-template-hash"]
        assert rule["nodeTaintsPolicy"] == "Honor"


def planted(**changed: Any) -> list[Mapping[str, Any]]:
    (rule,) = (rule for rule in constraints_of("router-service") if rule["topologyKey"] == HOST)
    return [{key: value for key, value in {**rule, **changed}.items() if value is not None}]


def worst(rules: list[Mapping[str, Any]]) -> int:
    return max(max(rolled(rules, nodes(2), 2, seed).per_node().values()) for seed in range(50))


def test_each_field_of_the_constraint_is_needed() -> None:
    assert worst(planted()) == 1
    assert worst(planted(whenUnsatisfiable="ScheduleAnyway")) == 2
    assert worst(planted(matchLabelKeys=None)) == 2, "old pods hide that new ones stand together"
    with pytest.raises(AssertionError, match="pending"):
        rolled(planted(minDomains=2), nodes(1), 2, 0)
    cordoned = [*nodes(1), Node("node-1", "zone-0", tainted=True)]
    with pytest.raises(AssertionError, match="pending"):
        rolled(planted(nodeTaintsPolicy=None), cordoned, 2, 0)
