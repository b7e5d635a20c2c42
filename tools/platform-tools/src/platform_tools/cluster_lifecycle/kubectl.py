"""Engine workloads, pods, nodes and load balancers through kubectl, with the user's own access. Decides nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from platform_tools.cluster_lifecycle.night import Engine

PAUSED = "autoscaling.keda.sh/paused-replicas"


class Kubectl:
    def __init__(self, command: Sequence[str], selector: str, annotation: str, gpu_resource: str) -> None:
        self._command = list(command)
        self._selector = selector
        self._annotation = annotation
        self._gpu_resource = gpu_resource

    def engines(self) -> list[Engine]:
        items = self._get("deployments,statefulsets", "-A", "-l", self._selector)
        return [self._read(item) for item in items]

    def rest(self, engine: Engine) -> None:
        """Store the size and scale in one patch, so that an interruption cannot separate the two."""
        remembered = engine.replicas if engine.remembered is None else engine.remembered
        self._pause_scaler(engine, "0")
        self._patch(engine, str(remembered), 0)

    def wake(self, engine: Engine) -> None:
        assert engine.remembered is not None
        self._patch(engine, None, engine.remembered)
        self._pause_scaler(engine, None)

    def engine_pods(self) -> int:
        return len(self._get("pods", "-A", "-l", self._selector))

    def ready_nodes(self) -> int:
        return sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
            for node in self._get("nodes")
        )

    def allocatable_gpus(self) -> int:
        return sum(
            int(node["status"].get("allocatable", {}).get(self._gpu_resource, 0))
            for node in self._get("nodes")
        )

    def entrances(self) -> list[str]:
        """Return Services and Ingresses with a load balancer outside the cluster, as ``kind/namespace/name``."""
        services = [s for s in self._get("services", "-A") if s["spec"].get("type") == "LoadBalancer"]
        return [
            f"{item['kind'].lower()}/{item['metadata']['namespace']}/{item['metadata']['name']}"
            for item in [*services, *self._get("ingresses", "-A")]
        ]

    def delete_entrance(self, entrance: str) -> None:
        kind, namespace, name = entrance.split("/")
        self._run("delete", f"{kind}/{name}", "-n", namespace, "--wait=false", "--ignore-not-found")

    def claims(self) -> list[str]:
        """Return the volume claims of every namespace, as ``namespace/name``."""
        return [_path(claim) for claim in self._get("persistentvolumeclaims", "-A")]

    def claims_in_use(self) -> list[str]:
        """Return the claims that a pod mounts. Kubernetes deletes them only after the pod."""
        used = {
            f"{pod['metadata']['namespace']}/{volume['persistentVolumeClaim']['claimName']}"
            for pod in self._get("pods", "-A")
            for volume in pod.get("spec", {}).get("volumes", [])
            if "persistentVolumeClaim" in volume
        }
        return sorted(used)

    def delete_claim(self, claim: str) -> None:
        namespace, name = claim.split("/")
        self._run(
            "delete", f"persistentvolumeclaim/{name}", "-n", namespace, "--wait=false", "--ignore-not-found"
        )

    def volumes(self) -> list[str]:
        """Return the volumes whose storage is deleted with their claim; retained volumes are kept on purpose."""
        return [
            volume["metadata"]["name"]
            for volume in self._get("persistentvolumes")
            if volume.get("spec", {}).get("persistentVolumeReclaimPolicy", "Delete") == "Delete"
        ]

    def _pause_scaler(self, engine: Engine, replicas: str | None) -> None:
        """Pause the engine's KEDA scaler, which has the engine's name: it would scale the engine up at once."""
        if not self._run("api-resources", "--api-group=keda.sh", "--no-headers").strip():
            return
        scalers = self._get("scaledobjects.keda.sh", "-n", engine.namespace, "-l", self._selector)
        if any(one["metadata"]["name"] == engine.name for one in scalers):
            patch = {"metadata": {"annotations": {PAUSED: replicas}}}
            target = f"scaledobjects.keda.sh/{engine.name}"
            self._run("patch", target, "-n", engine.namespace, "--type", "merge", "-p", json.dumps(patch))

    def _read(self, item: dict[str, Any]) -> Engine:
        memory = item["metadata"].get("annotations", {}).get(self._annotation)
        return Engine(
            kind=item["kind"],
            namespace=item["metadata"]["namespace"],
            name=item["metadata"]["name"],
            replicas=item["spec"].get("replicas", 1),
            ready=item.get("status", {}).get("readyReplicas", 0),
            remembered=None if memory is None else int(memory),
        )

    def _patch(self, engine: Engine, memory: str | None, replicas: int) -> None:
        patch = {"metadata": {"annotations": {self._annotation: memory}}, "spec": {"replicas": replicas}}
        target = f"{engine.kind.lower()}/{engine.name}"
        self._run("patch", target, "-n", engine.namespace, "--type", "merge", "-p", json.dumps(patch))

    def _get(self, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self._run("get", *arguments, "-o", "json"))["items"]
        return items

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def _path(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"
