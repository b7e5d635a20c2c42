"""Chooses the kubeconfig context of an environment and refuses the cluster of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from platform_tools.environment_files import environments, variables
from platform_tools.kube_context import WrongCluster, eks_context, kubeconfig, other_context

EKS_CLUSTER = ":cluster/llm-"


def choose_context(
    infrastructure: Path, environment: str, named: str | None, region: str | None, kubectl: Sequence[str]
) -> tuple[str, str]:
    """Return the kubeconfig context to use and its cluster, as ``name at server``.

    ``named`` is used if it exists and does not point to another environment's EKS cluster. Without it, an
    environment that Terraform knows gets the context of its EKS cluster, and any other environment the
    current context.

    Raises:
        WrongCluster: no context fits.
    """
    config = kubeconfig(kubectl)
    if named:
        context = _checked(config, environment, named)
    elif environment in environments(infrastructure):
        context = _eks(infrastructure, environment, region, config)
    else:
        context = other_context(config, environment)
    name = _cluster_name(config, context)
    servers = {one["name"]: one["cluster"].get("server", "") for one in config.get("clusters") or []}
    return context, f"{name} at {servers.get(name, 'an unknown server')}"


def _checked(config: Mapping[str, Any], environment: str, named: str) -> str:
    known = [one["name"] for one in config.get("contexts") or []]
    if named not in known:
        raise WrongCluster(
            f'--context "{named}" is not in the kubeconfig (contexts: {", ".join(known) or "none"})'
        )
    cluster = _cluster_name(config, named)
    if EKS_CLUSTER in cluster and not cluster.endswith(f"{EKS_CLUSTER}{environment}"):
        raise WrongCluster(
            f'--context "{named}" leads to {cluster}, which is not the cluster of "{environment}"'
        )
    return named


def _eks(infrastructure: Path, environment: str, region: str | None, config: Mapping[str, Any]) -> str:
    region = region or str(variables(infrastructure, environment)["region"])
    name = f"llm-{environment}"
    try:
        found = boto3.client("eks", region_name=region).describe_cluster(name=name)["cluster"]
    except (BotoCoreError, ClientError) as error:
        raise WrongCluster(
            f"cannot look up the EKS cluster {name} in {region}: {error}; sign in to its AWS account, or name the "
            "kubeconfig context with --context"
        ) from None
    return eks_context(config, found["arn"], found["endpoint"])


def _cluster_name(config: Mapping[str, Any], context: str) -> str:
    contexts = {one["name"]: one["context"]["cluster"] for one in config.get("contexts") or []}
    return str(contexts.get(context, ""))
