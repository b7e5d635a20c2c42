"""Checks whether a cluster has what manifests require.

Returns each missing item as one line with its remedy; changes nothing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from platform_tools.deploy.needs import GPU, Needs
from platform_tools.deploy.releases import BadRequest

HOW_TO_MAKE = {
    "redis": 'kubectl -n {namespace} create secret generic redis --from-literal=password="$(openssl rand -hex 32)"',
    "grafana": "kubectl -n {namespace} create secret generic grafana --from-literal=admin-user=admin "
    '--from-literal=admin-password="$(openssl rand -hex 16)"',
    "edge-routes": "edge-gateway routes --settings services/edge-gateway/envoy/cluster.yaml --keys-file KEYS "
    "--out routes.yaml && kubectl -n {namespace} create secret generic edge-routes --from-file=routes.yaml",
    "edge-tls": "kubectl -n {namespace} create secret tls edge-tls --cert=tls.crt --key=tls.key "
    "(or let cert-manager create it: tls.certManager of the edge)",
}
GROUPS = {
    "keda.sh": "install KEDA, or set keda.enabled to false",
    "monitoring.coreos.com": "install the Prometheus operator, or leave monitors and rules off",
    "gateway.networking.k8s.io": "install the Gateway API, or set httpRoute.enabled to false",
    "cert-manager.io": "install cert-manager, or create the Secret yourself and set tls.certManager.enabled to false",
}


class Cluster:
    """Reads a cluster through kubectl, with the user's own access."""

    def __init__(self, kubectl: Sequence[str]) -> None:
        self._kubectl = list(kubectl)

    def get(self, *words: str) -> list[dict[str, Any]]:
        """Return the objects.

        Raises:
            BadRequest: kubectl cannot reach the cluster.
        """
        command = [*self._kubectl, "get", *words, "-o", "json", "--request-timeout=20s"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise BadRequest(
                f"kubectl get {words[0]}: {said[-1] if said else 'failed'} "
                "(is the kubeconfig right, the endpoint reachable? docs/infrastructure.md)"
            )
        return list(json.loads(done.stdout)["items"])

    def log(self, namespace: str, pod: str, container: str, lines: int) -> list[str]:
        """Return the last log lines of a container's previous run, else of its current one; [] without a log."""
        words = ["logs", pod, "-n", namespace, "-c", container, f"--tail={lines}", "--request-timeout=20s"]
        for more in (["--previous"], []):
            done = subprocess.run(
                [*self._kubectl, *words, *more], capture_output=True, text=True, check=False, timeout=60
            )
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.strip().splitlines()
        return []

    def names(self, *words: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.get(*words)}


def lacks(cluster: Cluster, needs: Needs) -> tuple[list[str], list[str]]:
    """Return what is missing, and notes, one line each."""
    missing: list[str] = []
    known: list[str] = []
    nodes = cluster.get("nodes")
    if needs.gpus:
        there = sum(int(node["status"].get("allocatable", {}).get(GPU, 0)) for node in nodes)
        if not there:
            missing.append(
                f"no node has {GPU}: are GPU nodes up (scripts/resume), and is NVIDIA's device plugin installed? "
                f"{needs.gpus} are needed"
            )
        elif there < needs.gpus:
            known.append(f"{needs.gpus} GPUs are needed and {there} exist: pods wait for more nodes")
    if needs.default_storage or needs.storage_classes:
        classes = cluster.get("storageclasses")
        names = {one["metadata"]["name"] for one in classes}
        default = any(
            one["metadata"].get("annotations", {}).get("storageclass.kubernetes.io/is-default-class")
            == "true"
            for one in classes
        )
        if needs.default_storage and not default:
            missing.append(
                "there is no default storage class: the EBS CSI add-on creates one, or set persistence.storageClass"
            )
        for name in sorted(needs.storage_classes - names):
            missing.append(
                f'there is no storage class "{name}" (known: {", ".join(sorted(names)) or "none"})'
            )
    if needs.metrics and "v1beta1.metrics.k8s.io" not in cluster.names("apiservices"):
        missing.append("metrics-server is missing but autoscalers need CPU metrics: install its add-on")
    if needs.groups:
        there_groups = {item["spec"]["group"] for item in cluster.get("customresourcedefinitions")}
        for group in sorted(needs.groups - there_groups):
            missing.append(f"the CRDs of {group} are missing: {GROUPS[group]}")
    for (namespace, name), keys in sorted(needs.secrets.items()):
        found = {item["metadata"]["name"]: item for item in cluster.get("secrets", "-n", namespace)}
        how = HOW_TO_MAKE.get(name, "kubectl -n {namespace} create secret generic " + name).format(
            namespace=namespace
        )
        if name not in found:
            missing.append(f"there is no Secret {name} in {namespace}: {how}")
        elif absent := sorted(keys - found[name].get("data", {}).keys()):
            missing.append(f"the Secret {name} in {namespace} has no key {', '.join(absent)}: {how}")
    return missing, known
