"""Each reason why a pod is not ready is reported as one line with its remedy."""

from typing import Any

import pytest

from platform_tools.deploy.pod_troubles import creation_trouble, trouble_of


def pod(status: dict[str, Any], requests: dict[str, str] | None = None) -> dict[str, Any]:
    containers = [{"name": "router", "resources": {"requests": requests or {}}}]
    return {
        "metadata": {"name": "router-1", "namespace": "llm"},
        "spec": {"containers": containers},
        "status": status,
    }


def container(**fields: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "router", "image": "reg/router:1", **fields}]}


def unscheduled(message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


CRASHED = {"terminated": {"exitCode": 3, "reason": "Error"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}


@pytest.mark.parametrize(
    ("status", "why", "remedy"),
    [
        (
            unscheduled("0/2 nodes are available: 2 Insufficient cpu."),
            "unschedulable, requests cpu 4, memory 1Gi: 0/2 nodes are available: 2 Insufficient cpu.",
            "add a node, or lower the requests",
        ),
        (
            unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
            "nvidia.com/gpu",
            "scripts/resume",
        ),
        (unscheduled("pod has unbound immediate PersistentVolumeClaims"), "unbound", "get pvc"),
        (unscheduled("1 node(s) had untolerated taint {a: b}"), "taint", "toleration"),
        (
            container(state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
            "router: ImagePullBackOff, image reg/router:1: not found",
            "push the image",
        ),
        (
            container(state={"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=4, lastState=CRASHED),
            "router crashed 4 times (Error, exit code 3)",
            "lines of its log",
        ),
        (
            container(state={"running": {}}, restartCount=2, lastState=KILLED),
            "router crashed 2 times (OOMKilled, exit code 137)",
            "raise its memory limit",
        ),
        (
            container(
                state={
                    "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "redis" not found'}
                }
            ),
            'CreateContainerConfigError: secret "redis" not found',
            "describe pod router-1",
        ),
    ],
)
def test_each_reason_is_named_with_its_remedy(status: dict[str, Any], why: str, remedy: str) -> None:
    found = trouble_of(pod(status, {"cpu": "4", "memory": "1Gi"}), [])
    assert found is not None
    assert why in found.why
    assert remedy in found.remedy
    assert str(found).startswith("pod router-1: ")


def test_a_failing_probe_is_read_from_events_and_a_crash_wants_its_log() -> None:
    events = [
        {"reason": "Scheduled", "message": "ok"},
        {"reason": "Unhealthy", "message": "Readiness probe failed: HTTP probe failed with statuscode: 503"},
    ]
    found = trouble_of(pod(container(state={"running": {}}, restartCount=0)), events)
    assert found is not None
    assert "Readiness probe failed: HTTP probe failed with statuscode: 503" in found.why
    crashed = trouble_of(
        pod(container(state={"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=1)), []
    )
    assert crashed is not None
    assert crashed.crashed == "router"


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [{"type": "Ready", "status": "True"}]},
        {"phase": "Succeeded"},
        container(state={"waiting": {"reason": "ContainerCreating"}}, restartCount=0),
        {},
    ],
)
def test_a_pod_that_is_ready_or_only_starting_is_no_trouble(status: dict[str, Any]) -> None:
    assert trouble_of(pod(status), []) is None


def test_a_container_that_its_probe_kills_names_the_probe() -> None:
    events = [{"reason": "Unhealthy", "message": "Liveness probe failed: connection refused"}]
    found = trouble_of(pod(container(state={"running": {}}, restartCount=2, lastState=CRASHED)), events)
    assert found is not None
    assert "Liveness probe failed: connection refused" in found.why
    assert "probe more time" in found.remedy


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot', "security context"),
        ('pods "a" is forbidden: exceeded quota: small', "raise the quota"),
        ("serviceaccount not found", "kubectl -n llm describe replicaset router-7d"),
    ],
)
def test_an_owner_that_may_not_create_its_pods_is_named(message: str, remedy: str) -> None:
    owner = {
        "kind": "ReplicaSet", "metadata": {"name": "router-7d", "namespace": "llm"}, "spec": {"replicas": 2},
        "status": {"replicas": 0},
    }  # fmt: skip
    events = [{"reason": "FailedCreate", "message": message}]
    found = creation_trouble(owner, events)
    assert found is not None
    assert str(found).startswith(f"ReplicaSet router-7d: no pod was created: {message}")
    assert remedy in found.remedy
    assert creation_trouble({**owner, "status": {"replicas": 2}}, events) is None


def test_a_pod_that_is_being_deleted_is_no_trouble() -> None:
    ending = pod(container(state={"running": {}}, restartCount=4, lastState=CRASHED))
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert trouble_of(ending, []) is None
