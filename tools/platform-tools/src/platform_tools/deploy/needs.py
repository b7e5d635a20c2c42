"""What rendered manifests require of a cluster besides what Helm installs.

Pure functions of documents; they send no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]
GPU = "nvidia.com/gpu"


@dataclass
class Needs:
    """What manifests require. ``secrets`` maps (namespace, name) to keys.

    ``metrics``: an autoscaler reads metrics-server. ``autoscaling``: the number of pods varies, so nodes must follow.
    ``cluster_metrics``: Prometheus scrapes kubelets and the exporters about the cluster.
    """

    gpus: int = 0
    default_storage: bool = False
    storage_classes: set[str] = field(default_factory=set)
    metrics: bool = False
    autoscaling: bool = False
    cluster_metrics: bool = False
    load_balancer: bool = False
    groups: set[str] = field(default_factory=set)
    secrets: dict[tuple[str, str], set[str]] = field(default_factory=dict)


# API versions that operators install; charts test for the full name and version.
CRD_VERSIONS = (
    "keda.sh/v1alpha1",
    "monitoring.coreos.com/v1",
    "cert-manager.io/v1",
    "gateway.networking.k8s.io/v1",
)
CRD_GROUPS = tuple(version.partition("/")[0] for version in CRD_VERSIONS)


def read_needs(documents: Iterable[tuple[str, Document]]) -> Needs:
    """Return what documents require; each document comes with the namespace of its release."""
    needs = Needs()
    made: set[tuple[str, str]] = set()
    documents = list(documents)
    sizes = _sizes(documents)
    for namespace, document in documents:
        kind = document["kind"]
        group = document["apiVersion"].partition("/")[0]
        if group in CRD_GROUPS:
            needs.groups.add(group)
        if kind == "Certificate":
            made.add((namespace, document["spec"]["secretName"]))
        if kind == "HorizontalPodAutoscaler":
            # Equal bounds keep a fixed number of pods, which needs no metric.
            varies = document["spec"]["minReplicas"] < document["spec"]["maxReplicas"]
            needs.metrics |= varies
            needs.autoscaling |= varies
        if kind == "ScaledObject":
            needs.autoscaling = True
        if kind == "ClusterRole":
            resources = [one for rule in document.get("rules", []) for one in rule.get("resources", [])]
            needs.cluster_metrics |= "nodes/metrics" in resources
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
            own = document["spec"].get("replicas", 1)
            replicas = 0 if kind == "DaemonSet" else sizes.get((namespace, document["metadata"]["name"]), own)
            _pod(needs, namespace, document["spec"]["template"]["spec"], replicas)
    for secret in made:
        needs.secrets.pop(secret, None)
    return needs


def _sizes(documents: Iterable[tuple[str, Document]]) -> dict[tuple[str, str], int]:
    """Return the minimum number of pods by namespace and Deployment, from the autoscalers."""
    return {
        (namespace, document["spec"]["scaleTargetRef"]["name"]): document["spec"]["minReplicas"]
        for namespace, document in documents
        if document["kind"] == "HorizontalPodAutoscaler"
    }


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
