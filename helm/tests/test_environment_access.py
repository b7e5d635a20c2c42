"""Network policies, resources, service accounts and secrets of each environment."""

import itertools
import json
import re
from collections.abc import Iterable

import pytest

from harness.kubernetes.environments import (
    CONTRACT,
    ENVIRONMENTS,
    WORKLOADS,
    Document,
    containers,
    documents_of,
    engines,
    of_kind,
)
from podrunner.network import selects

pytestmark = pytest.mark.programs


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
                assert str(gpus) == (wanted if environment not in ("kind", "sim") else "0")
                assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert of_kind(environment, "Secret") == [], "Secrets are made by hand, no value of a chart holds one"
    text = json.dumps([one for one in documents_of(environment) if one["kind"] != "ConfigMap"])
    assert not re.search(r'"name": "[A-Z_]*(PASSWORD|TOKEN|KEY)", "value"', text)


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_every_workload_with_a_role_of_aws_runs_as_the_account_that_the_role_is_bound_to(
    environment: str,
) -> None:
    """Pod Identity binds by namespace and account, so each workload and each engine of prod has a separate account."""
    running = {
        (one["metadata"]["namespace"], one["spec"]["template"]["spec"]["serviceAccountName"]): one[
            "metadata"
        ]["name"]
        for one in of_kind(environment, *WORKLOADS)
    }
    bound = {(facts["namespace"], facts["service_account"]) for facts in CONTRACT["workloads"].values()}
    if environment == "prod":
        assert bound <= running.keys()
    assert all(
        (namespace, name) in bound for (namespace, _), name in running.items() if name in engines(environment)
    )


def permits(policies: Iterable[Document], one: Document, other: Document, port: int, direction: str) -> bool:
    """Return whether the policies of ``one`` allow traffic with ``other`` in a direction; without policies,
    all is allowed.
    """
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
    "router-service": {
        "router-service": {8000}, "mistral-7b": ENGINE, "llama-8b": ENGINE, "redis": {6379}, "alloy": {4318},
        "rate-limit-service": {8081},
    },
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
"""Allowed connections by port in `prod`, without the edge's 8080, which is open to clients."""


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
