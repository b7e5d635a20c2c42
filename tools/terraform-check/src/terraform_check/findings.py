"""Faults of an environment, found in its resources after an apply on mocks. Must not read files or run
programs.

Every function returns one line per finding, each with the resource's address; empty means none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from terraform_check.runs import Resource

NAMES = ("node_group_name_prefix", "name_prefix", "bucket", "node_group_name", "name")
"""Arguments that name a resource in AWS. A prefix counts only if it ends with a hyphen: a mock makes up eight letters
and digits for a prefix or a name that the code does not set."""

_UNNAMED = {
    "aws_default_security_group",
    "aws_eks_addon",
    "aws_iam_role_policy",
    "aws_iam_role_policy_attachment",
    "terraform_data",
}
"""Types whose name means something only inside another resource."""


def _of(resources: Iterable[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource.type == kind]


def names(resources: Iterable[Resource]) -> dict[tuple[str, str], str]:
    """Return the address of every resource with a name in AWS, by type and name."""
    found = {}
    for resource in resources:
        for argument in NAMES:
            name = resource.values.get(argument)
            if argument.endswith("prefix") and not str(name).endswith("-"):
                continue
            if name and resource.type not in _UNNAMED:
                found[resource.type, str(name)] = resource.address
                break
    return found


def names_without(resources: Iterable[Resource], environment: str) -> list[str]:
    """Return resources whose name lacks the environment's, so that a second environment would collide."""
    return [
        f"{address}: name {name!r} does not hold {environment!r}"
        for (_, name), address in names(resources).items()
        if environment not in name.replace("/", "-").split("-")
    ]


def shared_names(one: Iterable[Resource], other: Iterable[Resource]) -> list[str]:
    """Return names that two environments in one account and region would both create."""
    ours, theirs = names(one), names(other)
    return [
        f"{ours[key]}: {key[0]} {key[1]!r} is in both environments"
        for key in sorted(ours.keys() & theirs.keys())
    ]


def account_switches(resources: Iterable[Resource]) -> list[str]:
    """Return resources that change the whole account or region, which no environment may own."""
    kinds = {
        "aws_ebs_encryption_by_default",
        "aws_iam_service_linked_role",
        "aws_ce_cost_allocation_tag",
        "aws_iam_account_password_policy",
        "aws_s3_account_public_access_block",
    }
    return [
        f"{resource.address}: belongs to infrastructure/account"
        for resource in resources
        if resource.type in kinds
    ]


def node_security_groups(resources: list[Resource], cluster: str) -> list[str]:
    """Return launch templates whose interfaces do not carry exactly one security group tagged for the cluster.

    The AWS Load Balancer Controller refuses such nodes ("expect exactly one securityGroup tagged"). EKS tags
    the cluster's primary group itself, so it counts although none of our resources has the tag.
    """
    tag = f"kubernetes.io/cluster/{cluster}"
    tagged = {
        group.values["id"]
        for group in _of(resources, "aws_security_group")
        if tag in (group.values.get("tags") or {})
    }
    for eks in _of(resources, "aws_eks_cluster"):
        tagged |= {config["cluster_security_group_id"] for config in eks.values["vpc_config"]}
    findings = []
    for template in _of(resources, "aws_launch_template"):
        interfaces = template.values.get("network_interfaces") or []
        groups = set(template.values.get("vpc_security_group_ids") or [])
        groups |= {group for interface in interfaces for group in interface.get("security_groups") or []}
        if len(groups & tagged) != 1:
            findings.append(
                f"{template.address}: {len(groups & tagged)} security groups tagged for {cluster}, not 1"
            )
    return findings


def fixed_node_groups(resources: Iterable[Resource]) -> list[str]:
    """Return node groups with a fixed name: create-before-destroy cannot replace them."""
    return [
        f"{group.address}: node_group_name is fixed, so a replacement collides with it"
        for group in _of(resources, "aws_eks_node_group")
        if not str(group.values.get("node_group_name_prefix")).endswith("-")
    ]


def node_group_zones(resources: Iterable[Resource]) -> list[str]:
    """Return node groups that span zones: a pod whose volume is in one zone may find no node there."""
    return [
        f"{group.address}: {len(group.values['subnet_ids'])} subnets, not 1"
        for group in _of(resources, "aws_eks_node_group")
        if len(group.values["subnet_ids"]) != 1
    ]


def untagged_volumes(resources: list[Resource], tags: Mapping[str, str]) -> list[str]:
    """Return resources that create EBS volumes without the environment's tags, which cost-report would miss."""
    findings = []
    for addon in _of(resources, "aws_eks_addon"):
        if addon.values["addon_name"] == "aws-ebs-csi-driver":
            settings = json.loads(addon.values["configuration_values"])
            given = settings.get("controller", {}).get("extraVolumeTags", {})
            findings += _lacking(addon.address, given, tags)
    for template in _of(resources, "aws_launch_template"):
        given = {t["resource_type"]: t.get("tags") or {} for t in template.values["tag_specifications"]}
        findings += _lacking(template.address, given.get("volume", {}), tags)
    return findings


def _lacking(address: str, given: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{address}: volumes lack the tag {key}={value}"
        for key, value in wanted.items()
        if given.get(key) != value
    ]


def missing_addons(resources: Iterable[Resource], wanted: Iterable[str]) -> list[str]:
    """Return wanted EKS add-ons that are not installed."""
    given = {addon.values["addon_name"] for addon in _of(resources, "aws_eks_addon")}
    return [f"add-on {name} is not installed" for name in wanted if name not in given]


def untolerated_taints(resources: Iterable[Resource], taints: Iterable[Mapping[str, str]]) -> list[str]:
    """Return taints of GPU nodes that the node monitoring agent's DaemonSet dcgm-server does not tolerate.

    Without that DaemonSet the agent reports no GPU fault. By default it tolerates no taint. Source:
    aws/eks-node-monitoring-agent, charts/eks-node-monitoring-agent/values.yaml, v1.6.0 to v1.7.0.
    """
    findings = []
    for addon in _of(resources, "aws_eks_addon"):
        if addon.values["addon_name"] == "eks-node-monitoring-agent":
            settings = json.loads(addon.values.get("configuration_values") or "{}")
            given = settings.get("dcgmAgent", {}).get("tolerations", [])
            findings += [
                f"{addon.address}: dcgm-server does not tolerate {taint['key']}={taint['value']}:{taint['effect']}"
                for taint in taints
                if not any(_tolerates(one, taint) for one in given)
            ]
    return findings


def _tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    exists = toleration.get("operator", "Equal") == "Exists"
    return (
        toleration.get("effect", taint["effect"]) == taint["effect"]
        and (toleration.get("key") == taint["key"] or (exists and "key" not in toleration))
        and (exists or toleration.get("value", "") == taint["value"])
    )


def unlabelled_gpu_groups(resources: Iterable[Resource]) -> list[str]:
    """Return GPU node groups without the label by which Cluster Autoscaler knows that a node will have a GPU.

    Source: kubernetes/autoscaler 1.35.0, processors/customresources/gpu_processor.go and cloudprovider/aws/README.md.
    """
    label = "k8s.amazonaws.com/accelerator"
    return [
        f"{group.address}: lacks the label {label}"
        for group in _of(resources, "aws_eks_node_group")
        if "NVIDIA" in str(group.values.get("ami_type")) and not (group.values.get("labels") or {}).get(label)
    ]


def unbound_accounts(resources: Iterable[Resource], wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Return (namespace, service account) pairs without a Pod Identity association."""
    given = {
        (found.values["namespace"], found.values["service_account"])
        for found in _of(resources, "aws_eks_pod_identity_association")
    }
    return [
        f"{namespace}/{account} has no Pod Identity association"
        for namespace, account in wanted
        if (namespace, account) not in given
    ]


def bad_documents(resources: Iterable[Resource]) -> list[str]:
    """Return IAM documents (known at plan time) that are not a policy with at least one complete statement."""
    findings = []
    for resource in resources:
        for argument in ("policy", "assume_role_policy"):
            text = resource.values.get(argument)
            if text and resource.type.startswith("aws_iam"):
                findings += [f"{resource.address}.{argument}: {fault}" for fault in _faults(text)]
    return findings


def _faults(text: str) -> list[str]:
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError as error:
        return [f"is not JSON: {error}"]
    statements = document.get("Statement", [])
    statements = statements if isinstance(statements, list) else [statements]
    if document.get("Version") != "2012-10-17" or not statements:
        return ["has no statement or not version 2012-10-17"]
    faults = []
    for statement in statements:
        if statement.get("Effect") not in ("Allow", "Deny") or not (
            statement.get("Action") or statement.get("NotAction")
        ):
            faults.append(f"statement without effect or action: {json.dumps(statement)}")
    return faults


def empty_outputs(outputs: Mapping[str, Any]) -> list[str]:
    """Return outputs, and fields inside them, that are null."""
    return [f"output {path} is null" for path in _nulls("", outputs)]


def _nulls(path: str, value: Any) -> list[str]:
    if value is None:
        return [path]
    if isinstance(value, Mapping):
        return [found for key, inner in value.items() for found in _nulls(f"{path}.{key}".lstrip("."), inner)]
    return []
