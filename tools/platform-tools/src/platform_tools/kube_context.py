"""Finds the kubeconfig context for the cluster of an environment. Never relies on the current context alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit


class WrongCluster(RuntimeError):
    """No context points to the intended cluster; nothing was changed. The message names the remedy."""


def kubeconfig(kubectl: Sequence[str]) -> dict[str, Any]:
    """Return the merged kubeconfig without its secrets.

    Raises:
        WrongCluster: kubectl is missing or cannot read it.
    """
    command = [*kubectl, "config", "view", "-o", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise WrongCluster(f"{kubectl[0]} is not installed") from None
    if done.returncode:
        raise WrongCluster(f"kubectl config view: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def eks_context(config: Mapping[str, Any], arn: str, endpoint: str) -> str:
    """Return the context of the EKS cluster with this ARN, as `aws eks update-kubeconfig` writes it.

    Its server must be the cluster's endpoint, or a tunnel on loopback whose TLS server name is the endpoint's host.

    Raises:
        WrongCluster: there is none, or the context with the ARN's name points to another server.
    """
    clusters = {one["name"]: one["cluster"] for one in config.get("clusters") or []}
    contexts: dict[str, str] = {
        one["name"]: one["context"]["cluster"] for one in config.get("contexts") or []
    }
    for context, cluster in contexts.items():
        foreign = cluster.startswith("arn:") and cluster != arn
        if cluster in clusters and not foreign and _leads_to(clusters[cluster], endpoint):
            return context
    _, _, _, region, _, resource = arn.split(":", 5)
    update = f"aws eks update-kubeconfig --region {region} --name {resource.partition('/')[2]}"
    if arn in contexts.values():
        server = clusters.get(arn, {}).get("server")
        raise WrongCluster(
            f"the kubeconfig's cluster {arn} leads to {server}, and its endpoint is {endpoint}: {update}, then "
            f"kubectl config set-cluster for the tunnel (docs/infrastructure.md)"
        )
    known = ", ".join(sorted(contexts)) or "none"
    raise WrongCluster(f"no kubeconfig context leads to {arn} at {endpoint} (contexts: {known}): {update}")


def other_context(config: Mapping[str, Any], environment: str) -> str:
    """Return the current context, for an environment without an EKS cluster.

    Raises:
        WrongCluster: there is no current context, or it points to a cluster that Terraform created.
    """
    current = str(config.get("current-context") or "")
    if not current:
        raise WrongCluster("the kubeconfig has no current context; name one with --context")
    contexts: dict[str, str] = {
        one["name"]: one["context"]["cluster"] for one in config.get("contexts") or []
    }
    cluster = contexts.get(current, "")
    if ":cluster/llm-" in cluster or ":cluster/llm-" in current:
        raise WrongCluster(
            f"the current context {current} leads to {cluster or current}, which is not a cluster for "
            f'"{environment}"; name another one with --context'
        )
    return current


def _leads_to(cluster: Mapping[str, Any], endpoint: str) -> bool:
    server = urlsplit(str(cluster.get("server", "")))
    wanted = urlsplit(endpoint)
    if server.hostname == wanted.hostname:
        return True
    return server.hostname in ("127.0.0.1", "localhost", "::1") and (
        str(cluster.get("tls-server-name", "")).lower() == wanted.hostname
    )
