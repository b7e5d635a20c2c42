"""The resources of an environment in AWS, found through boto3 by their tags. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from platform_tools.cluster_lifecycle.bill import Item

_TAGS_AT_ONCE = 20  # more is refused


class Running:
    """Reads EC2, EKS and load balancers of one region. ``session`` is a boto3 session."""

    def __init__(self, session: Any, tags: dict[str, str]) -> None:
        self._ec2 = session.client("ec2")
        self._eks = session.client("eks")
        self._elb = session.client("elbv2")
        self._s3 = session.client("s3")
        self._ecr = session.client("ecr")
        self._environment_tag = tags["environment"]
        self._component_tag = tags["component"]

    def items(self, environment: str, cluster: str) -> list[Item]:
        """Return every resource billed by the hour that has the environment's tag or belongs to its cluster."""
        found: Counter[tuple[str, str]] = Counter()
        mine = [{"Name": f"tag:{self._environment_tag}", "Values": [environment]}]
        states = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        for page in self._ec2.get_paginator("describe_instances").paginate(Filters=[*mine, states]):
            for reservation in page["Reservations"]:
                for instance in reservation["Instances"]:
                    found[self._component(instance), instance["InstanceType"]] += 1
        for page in self._ec2.get_paginator("describe_volumes").paginate(Filters=mine):
            for volume in page["Volumes"]:
                found[self._component(volume), f"{volume['VolumeType']}-gib"] += volume["Size"]
        gateways = self._ec2.describe_nat_gateways(
            Filters=[*mine, {"Name": "state", "Values": ["pending", "available"]}]
        )
        found["network", "nat-gateway"] += len(gateways["NatGateways"])
        for endpoint in self._ec2.describe_vpc_endpoints(Filters=mine)["VpcEndpoints"]:
            if endpoint["VpcEndpointType"] == "Interface":
                found["network", "interface-endpoint"] += len(endpoint.get("SubnetIds") or [1])
        found["cluster", "eks-cluster"] += cluster in self._eks.list_clusters()["clusters"]
        found["edge", "load-balancer"] += len(self.load_balancers(cluster))
        return [Item(component, name, count) for (component, name), count in sorted(found.items()) if count]

    def load_balancers(self, cluster: str) -> list[str]:
        """Return the ARNs of the load balancers that Kubernetes created for ``cluster``."""
        arns = [
            balancer["LoadBalancerArn"] for balancer in self._elb.describe_load_balancers()["LoadBalancers"]
        ]
        found = []
        for start in range(0, len(arns), _TAGS_AT_ONCE):
            asked = self._elb.describe_tags(ResourceArns=arns[start : start + _TAGS_AT_ONCE])
            for described in asked["TagDescriptions"]:
                tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
                if f"kubernetes.io/cluster/{cluster}" in tags or tags.get("elbv2.k8s.aws/cluster") == cluster:
                    found.append(described["ResourceArn"])
        return found

    def with_content(self, kept: Iterable[tuple[str, str]]) -> list[str]:
        """Return those of the given buckets and repositories that contain an object, an old version or an image."""
        found = []
        for kind, name in kept:
            if kind == "aws_s3_bucket":
                page = self._s3.list_object_versions(Bucket=name, MaxKeys=1)
                if page.get("Versions") or page.get("DeleteMarkers"):
                    found.append(f"bucket {name}")
            elif self._ecr.list_images(repositoryName=name, maxResults=1)["imageIds"]:
                found.append(f"repository {name}")
        return found

    def _component(self, resource: dict[str, Any]) -> str:
        tags = {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}
        return str(tags.get(self._component_tag, "untagged"))
