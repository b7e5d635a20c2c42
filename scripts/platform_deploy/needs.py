"""What rendered manifests need of a cluster that Helm does not bring. Pure: reads documents, asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]
GPU = "nvidia.com/gpu"


@dataclass
class Needs:
    """Found in manifests; ``secrets`` are (namespace, name) → keys."""

    gpus: int = 0
    default_storage: bool = False
    storage_classes: set[str] = field(default_factory=set)
    metrics: bool = False
    load_balancer: bool = False
    groups: set[str] = field(default_factory=set)
    secrets: dict[tuple[str, str], set[str]] = field(default_factory=dict)


# What operators bring; charts ask for the whole name and version.
CRD_VERSIONS = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1", "cert-manager.io/v1")
CRD_GROUPS = tuple(version.partition("/")[0] for version in CRD_VERSIONS)


def read_needs(documents: Iterable[tuple[str, Document]]) -> Needs:
    """Return what documents need; each comes with the namespace of its release."""
    needs = Needs()
    made: set[tuple[str, str]] = set()
    for namespace, document in documents:
        kind = document["kind"]
        group = document["apiVersion"].partition("/")[0]
        if group in CRD_GROUPS:
            needs.groups.add(group)
        if kind == "Certificate":
            made.add((namespace, document["spec"]["secretName"]))
        if kind == "HorizontalPodAutoscaler":
            needs.metrics = True
        if kind == "Service" and document["spec"].get("type") == "LoadBalancer":
            needs.load_balancer = True
        claims = document.get("spec", {}).get("volumeClaimTemplates", [])
        for claim in [*claims, *([document] if kind == "PersistentVolumeClaim" else [])]:
            name = claim["spec"].get("storageClassName")
            if name:
                needs.storage_classes.add(name)
            else:
                needs.default_storage = True
        if kind in ("Deployment", "StatefulSet", "DaemonSet"):
            replicas = document["spec"].get("replicas", 1) if kind != "DaemonSet" else 0
            _pod(needs, namespace, document["spec"]["template"]["spec"], replicas)
    for secret in made:
        needs.secrets.pop(secret, None)
    return needs


def _pod(needs: Needs, namespace: str, spec: Document, replicas: int) -> None:
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        needs.gpus += replicas * int(container.get("resources", {}).get("limits", {}).get(GPU, 0))
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                needs.secrets.setdefault((namespace, reference["name"]), set()).add(reference["key"])
    for volume in spec.get("volumes", []):
        if (secret := volume.get("secret")) and not secret.get("optional"):
            keys = {item["key"] for item in secret.get("items", [])}
            needs.secrets.setdefault((namespace, secret["secretName"]), set()).update(keys)
