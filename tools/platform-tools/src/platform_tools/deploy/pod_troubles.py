"""Reasons why a pod is not ready, with remedies, from the pod's API object.

Pure functions of objects; they send no request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
)


@dataclass(frozen=True)
class Trouble:
    """One reason why a release is not ready. ``crashed`` is the container whose log explains more."""

    pod: str
    why: str
    remedy: str
    crashed: str | None = None
    kind: str = "pod"

    def __str__(self) -> str:
        return f"{self.kind} {self.pod}: {self.why}; {self.remedy}"


def trouble_of(pod: Object, events: Sequence[Object]) -> Trouble | None:
    """Return why a pod is not ready, None if it is ready, finished, terminating or starting without a fault.

    ``events`` are the events of this pod, the newest last.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return None
    name, namespace = pod["metadata"]["name"], pod["metadata"].get("namespace", "default")
    status = pod.get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    if conditions.get("Ready", {}).get("status") == "True" or status.get("phase") == "Succeeded":
        return None
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        message = scheduled.get("message", "no node fits")
        return Trouble(
            name, f"unschedulable, requests {_asked(pod)}: {message}", _scheduling_remedy(message, namespace)
        )
    for container in _containers(status):
        if found := _container_trouble(name, namespace, container, events):
            return found
    return _from_events(name, namespace, events)


def creation_trouble(owner: Object, events: Sequence[Object]) -> Trouble | None:
    """Return why a ReplicaSet, StatefulSet or DaemonSet cannot create its pods, None if it can.

    ``events`` are the events of this object, the newest last.
    """
    spec, status = owner.get("spec", {}), owner.get("status", {})
    wanted = status.get("desiredNumberScheduled", spec.get("replicas", 0))
    if status.get("replicas", status.get("currentNumberScheduled", 0)) >= wanted:
        return None
    name, namespace = owner["metadata"]["name"], owner["metadata"].get("namespace", "default")
    for event in reversed(events):
        if event.get("reason") == "FailedCreate":
            remedy = f"kubectl -n {namespace} describe {owner['kind'].lower()} {name}"
            if "PodSecurity" in _message(event):
                remedy = "correct the security context in the values of this release"
            elif "quota" in _message(event):
                remedy = f"raise the quota (kubectl -n {namespace} get resourcequota), or lower the requests"
            return Trouble(name, f"no pod was created: {_message(event)}", remedy, kind=owner["kind"])
    return None


def _message(event: Object) -> str:
    return " ".join(str(event.get("message", "")).split())


def _containers(status: Object) -> Iterator[Object]:
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])


def _container_trouble(
    name: str, namespace: str, container: Object, events: Sequence[Object]
) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    which = container["name"]
    if reason in IMAGE_REASONS:
        return Trouble(
            name,
            f"{which}: {reason}, image {container.get('image')}: {message or 'no message'}",
            "push the image, correct global.registry and the tag, or give imagePullSecrets",
        )
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Trouble(name, f"{which}: {reason}: {message}", f"kubectl -n {namespace} describe pod {name}")
    restarts = container.get("restartCount", 0)
    if reason == "CrashLoopBackOff" or restarts > 1:
        now = container.get("state", {}).get("terminated", {})
        last = container.get("lastState", {}).get("terminated") or now
        how = f"{last.get('reason', 'Error')}, exit code {last.get('exitCode', '?')}"
        remedy = "correct what the last lines of its log report"
        if last.get("reason") == "OOMKilled":
            remedy = "raise its memory limit"
        elif killed := _killing_probe(events):
            how, remedy = f"{how}; {killed}", "give its probe more time, or correct what its log reports"
        return Trouble(name, f"{which} crashed {restarts} times ({how})", remedy, which)
    return None


def _killing_probe(events: Sequence[Object]) -> str | None:
    """Return the newest failure of a probe for which the kubelet kills the container."""
    for event in reversed(events):
        message = _message(event)
        if event.get("reason") == "Unhealthy" and message.startswith(("Liveness", "Startup")):
            return message
    return None


def _from_events(name: str, namespace: str, events: Sequence[Object]) -> Trouble | None:
    for event in reversed(events):
        reason, message = event.get("reason"), _message(event)
        if reason == "Unhealthy":
            return Trouble(name, f"not ready: {message}", f"kubectl -n {namespace} logs {name}")
        if reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
            return Trouble(name, f"{reason}: {message}", f"kubectl -n {namespace} describe pod {name}")
    return None


def _asked(pod: Object) -> str:
    requests = [
        one.get("resources", {}).get("requests", {}) for one in pod.get("spec", {}).get("containers", [])
    ]
    asked = [f"{resource} {request[resource]}" for request in requests for resource in sorted(request)]
    return ", ".join(asked) or "nothing"


def _scheduling_remedy(message: str, namespace: str) -> str:
    for sign, remedy in (
        ("PersistentVolumeClaim", f"kubectl -n {namespace} get pvc, and see the storage class"),
        ("volume", f"kubectl -n {namespace} get pvc, and see the storage class and the zone of the volume"),
        ("nvidia.com/gpu", "start GPU nodes (scripts/resume), and install NVIDIA's device plugin"),
        ("Insufficient", "add a node, or lower the requests in the values of this release"),
        ("taint", "give the pod the toleration, or use a node without it"),
        ("affinity", "give a node the label that the pod selects (kubectl get nodes --show-labels)"),
    ):
        if sign in message:
            return remedy
    return f"kubectl -n {namespace} get events"
