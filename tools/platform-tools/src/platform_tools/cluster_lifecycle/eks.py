"""Node groups of one EKS cluster through boto3: sizes, and the cluster tags that store them.

One tag per node group, on the cluster itself. ``terraform apply`` removes unknown tags, so it must not run
while the cluster is scaled down. Decides nothing.
"""

from __future__ import annotations

import time
from typing import Any

from platform_tools.cluster_lifecycle.night import NodeGroup, Size


class EksNodeGroups:
    def __init__(self, client: Any, cluster: str, pool_label: str, memory_tag: str) -> None:
        self._client = client
        self._cluster = cluster
        self._pool_label = pool_label
        self._memory_tag = memory_tag

    def node_groups(self) -> list[NodeGroup]:
        names = [
            name
            for page in self._client.get_paginator("list_nodegroups").paginate(clusterName=self._cluster)
            for name in page["nodegroups"]
        ]
        return [self._read(name) for name in names]

    def remember(self, group: NodeGroup) -> None:
        self._client.tag_resource(resourceArn=self._arn(), tags={self._tag(group.name): str(group.size)})

    def forget(self, group: NodeGroup) -> None:
        self._client.untag_resource(resourceArn=self._arn(), tagKeys=[self._tag(group.name)])

    def resize(self, group: NodeGroup, size: Size) -> None:
        self._settled(group.name)
        self._client.update_nodegroup_config(
            clusterName=self._cluster,
            nodegroupName=group.name,
            scalingConfig={"minSize": size.minimum, "desiredSize": size.desired, "maxSize": size.maximum},
        )

    def _settled(self, name: str) -> None:
        """EKS refuses a second update while one is in progress (at most 10 minutes here)."""
        deadline = time.monotonic() + 600
        while self._describe(name)["status"] == "UPDATING" and time.monotonic() < deadline:
            time.sleep(5)

    def _describe(self, name: str) -> dict[str, Any]:
        answer = self._client.describe_nodegroup(clusterName=self._cluster, nodegroupName=name)
        group: dict[str, Any] = answer["nodegroup"]
        return group

    def _tag(self, name: str) -> str:
        return f"{self._memory_tag}:{name}"

    def _described(self) -> dict[str, Any]:
        cluster: dict[str, Any] = self._client.describe_cluster(name=self._cluster)["cluster"]
        return cluster

    def _arn(self) -> str:
        return str(self._described()["arn"])

    def _read(self, name: str) -> NodeGroup:
        raw = self._describe(name)
        scaling = raw["scalingConfig"]
        memory = self._described().get("tags", {}).get(self._tag(name))
        return NodeGroup(
            name=name,
            size=Size(scaling["minSize"], scaling["desiredSize"], scaling["maxSize"]),
            is_gpu=raw.get("labels", {}).get(self._pool_label) == "gpu",
            instance_type=(raw.get("instanceTypes") or ["unknown"])[0],
            capacity_type=raw.get("capacityType", "ON_DEMAND"),
            remembered=Size.parse(memory) if memory else None,
        )
