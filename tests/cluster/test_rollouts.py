"""Planned changes lose no request: rollouts, drains, deleted pods, upgrades, scaling."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from cluster import load
from cluster.kubectl import Kubectl, names, ready, wait_for
from cluster.platform import TIERS, Platform, app

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


DOUBLED = ("edge-gateway", "router-service")
"""Deployments whose replicas must never share a node."""
SCALED = ("router-service", "edge-gateway", "rate-limit-service")
"""Deployments that `autoscaling` may scale."""


def nodes_of(kubectl: Kubectl, deployment: str) -> list[str]:
    """Return the node of each running pod of a deployment."""
    label = "llm-platform/backend=simulated" if deployment == "simulated" else app(deployment)
    return [pod["spec"]["nodeName"] for pod in kubectl.pods("llm", label) if ready(pod)]


def test_a_node_is_drained_and_comes_back(platform: Platform, kubectl: Kubectl) -> None:
    """Both replicas move to the remaining nodes, one after another. The rollouts below spread them again."""
    node = names(kubectl.get("nodes"))[-1]
    others = [name for name in names(kubectl.get("nodes")) if name != node]
    releases = ", ".join(one["name"] for one in platform.releases())
    if not others:
        pytest.skip("the cluster has one node")
    try:
        with load.load(kubectl, platform.load_image, "drain", node=others[0]) as run:
            kubectl(
                "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s",
                f"--pod-selector=app.kubernetes.io/instance in ({releases})", timeout=120,
            )  # fmt: skip
            left = [pod["spec"]["nodeName"] for pod in kubectl.pods("llm")]
            seen = run.finish()
        assert node not in left
    finally:
        kubectl("uncordon", node)
    platform.whole()
    assert not seen.lost, seen.said()


def test_rollouts_lose_nothing_and_end_spread(platform: Platform, kubectl: Kubectl) -> None:
    """Each tier alone, then twice the edges and routers at once."""
    with load.load(kubectl, platform.load_image, "rollouts") as run:
        for together in (*([one] for one in TIERS), DOUBLED, DOUBLED):
            for deployment in together:
                kubectl("rollout", "restart", f"deployment/{deployment}", "-n", "llm")
            kubectl.rolled_out("llm", *together)
        seen = run.finish()
    assert not seen.lost, seen.said()
    platform.settled()
    hosts = len(kubectl.get("nodes"))
    for deployment in DOUBLED:
        nodes = nodes_of(kubectl, deployment)
        assert len(set(nodes)) == min(hosts, len(nodes)), f"{deployment} after three rollouts: {nodes}"


def test_deleted_pods_lose_nothing(platform: Platform, kubectl: Kubectl, draws: random.Random) -> None:
    """One pod of every tier within seconds."""
    with load.load(kubectl, platform.load_image, "deleted") as run:
        for deployment in TIERS:
            label = "llm-platform/backend=simulated" if deployment == "simulated" else app(deployment)
            victim = draws.choice(names(kubectl.pods("llm", label)))
            kubectl("delete", "pod", victim, "-n", "llm", "--wait=false")
            time.sleep(draws.uniform(1, 4))
        kubectl.rolled_out("llm", *TIERS)
        seen = run.finish()
    platform.whole()
    assert not seen.lost, seen.said()


READ_METRICS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=10).read().decode())
"""


def test_new_routers_get_their_share(platform: Platform, kubectl: Kubectl) -> None:
    """30 s after scaling from 2 to 4 routers, none gets over 1.5 times the requests of another."""

    def counts() -> dict[str, float]:
        found = {}
        for pod in names([one for one in kubectl.pods("llm", app("router-service")) if ready(one)]):
            # From inside the pod: network policies need not let the API server in.
            page = kubectl(
                "exec", pod, "-n", "llm", "-c", "router", "--", "/opt/venv/bin/python", "-c", READ_METRICS
            )
            found[pod] = sum(
                float(line.rsplit(" ", 1)[1])
                for line in page.splitlines()
                if line.startswith("router_requests_total{")
            )
        return found

    try:
        with load.load(kubectl, platform.load_image, "shares", rate=12) as run:
            platform.upgrade("router", "--set", "replicas=4")
            wait_for("four routers are ready", lambda: len(nodes_of(kubectl, "router-service")) == 4, 120)
            time.sleep(30)
            before = counts()
            time.sleep(30)
            after = counts()
            seen = run.finish()
    finally:
        platform.upgrade("router")
    wait_for("two routers are left", lambda: len(nodes_of(kubectl, "router-service")) == 2, 120)
    platform.whole()
    shares = {pod: after[pod] - before[pod] for pod in before}
    print(f"\nrequests in 30 s: {shares}")
    assert not seen.lost, seen.said()
    assert len(shares) == 4
    assert max(shares.values()) <= 1.5 * min(shares.values()), shares


def test_autoscaling_never_takes_replicas_away_when_it_is_switched(
    platform: Platform, kubectl: Kubectl
) -> None:
    """A fixed number of replicas also goes through the autoscaler, so a change of its bounds removes no pod."""
    with ExitStack() as watches:
        wanted = {name: watches.enter_context(kubectl.watched_replicas("llm", name)) for name in SCALED}
        with ThreadPoolExecutor(len(SCALED)) as pool:
            on = ("--set", "autoscaling.enabled=true")
            list(pool.map(lambda name: platform.upgrade(TIERS[name], *on), SCALED))
        for deployment in SCALED:
            wait_for(
                f"an autoscaler has read the load of {deployment}",
                lambda name=deployment: scaled(kubectl, name),
                120,
            )
        with ThreadPoolExecutor(len(SCALED)) as pool:
            list(pool.map(lambda name: platform.upgrade(TIERS[name]), SCALED))
    platform.whole()
    assert {name: min(counts) for name, counts in wanted.items()} == dict.fromkeys(SCALED, 2), wanted
    for deployment in SCALED:
        bounds = autoscaler(kubectl, deployment)["spec"]
        assert (bounds["minReplicas"], bounds["maxReplicas"]) == (2, 2), deployment


def autoscaler(kubectl: Kubectl, deployment: str) -> dict[str, Any]:
    """Return the one HorizontalPodAutoscaler of a deployment."""
    found = kubectl.get("horizontalpodautoscalers", "-n", "llm")
    (one,) = (each for each in found if each["spec"]["scaleTargetRef"]["name"] == deployment)
    return one


def scaled(kubectl: Kubectl, deployment: str) -> bool:
    """Return whether the deployment's autoscaler may add replicas and has its metric."""
    one = autoscaler(kubectl, deployment)
    conditions = {each["type"]: each["status"] for each in one["status"].get("conditions", [])}
    return one["spec"]["maxReplicas"] > 2 and conditions.get("ScalingActive") == "True"
