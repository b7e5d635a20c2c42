"""night-off and resume: everything is restored, even if either was interrupted at any step."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from platform_tools.cluster_lifecycle.eks import EksNodeGroups
from platform_tools.cluster_lifecycle.night import Engine, Night, NodeGroup, Size

POOL, TAG = "llm-platform/pool", "llm-platform:size-before-night"
ROLE = "arn:aws:iam::123456789012:role/x"


class Interrupted(Exception):
    pass


class Kubernetes:
    """A cluster whose nodes, GPUs and pods follow the requested sizes."""

    def __init__(self, cloud: EksNodeGroups) -> None:
        self.cloud = cloud
        self.stored = [
            Engine("Deployment", "llm", "backend-a", 1, 1, None),
            Engine("StatefulSet", "llm", "backend-b", 2, 2, None),
            Engine("Deployment", "llm", "switched-off", 0, 0, None),
        ]

    def engines(self) -> list[Engine]:
        return list(self.stored)

    def _set(self, engine: Engine, replicas: int, remembered: int | None) -> None:
        self.stored = [
            replace(old, replicas=replicas, ready=replicas, remembered=remembered)
            if old.name == engine.name
            else old
            for old in self.stored
        ]

    def rest(self, engine: Engine) -> None:
        self._set(engine, 0, engine.replicas if engine.remembered is None else engine.remembered)

    def wake(self, engine: Engine) -> None:
        assert engine.remembered is not None
        assert self.allocatable_gpus() > 0, "engines were woken before their GPUs"
        self._set(engine, engine.remembered, None)

    def engine_pods(self) -> int:
        return sum(engine.replicas for engine in self.stored)

    def ready_nodes(self) -> int:
        return sum(group.size.desired for group in self.cloud.node_groups())

    def allocatable_gpus(self) -> int:
        return sum(group.size.desired for group in self.cloud.node_groups() if group.is_gpu)


class Breaking:
    """Forwards calls and raises at change number ``after``, before or after the change itself."""

    def __init__(self, target: Any, budget: list[int], before: bool) -> None:
        self.target, self.budget, self.before = target, budget, before

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.target, name)
        if name not in ("remember", "forget", "resize", "rest", "wake"):
            return call

        def change(*arguments: Any) -> None:
            self.budget[0] -= 1
            if self.budget[0] == 0 and self.before:
                raise Interrupted
            call(*arguments)
            if self.budget[0] == 0:
                raise Interrupted

        return change


@pytest.fixture(scope="module")
def eks() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        yield boto3.client("eks", region_name="us-east-1")


@pytest.fixture
def aws(eks: Any) -> EksNodeGroups:
    cluster = f"llm-{uuid.uuid4().hex[:8]}"
    eks.create_cluster(name=cluster, roleArn=ROLE, resourcesVpcConfig={"subnetIds": ["subnet-1"]})
    for pool, size in (("system", (2, 2, 4)), ("gpu", (0, 3, 3))):
        eks.create_nodegroup(
            clusterName=cluster,
            nodegroupName=pool,
            nodeRole=ROLE,
            subnets=["subnet-1"],
            labels={POOL: pool},
            scalingConfig=dict(zip(("minSize", "desiredSize", "maxSize"), size, strict=True)),
        )
    return EksNodeGroups(eks, cluster, POOL, TAG)


def state(cloud: EksNodeGroups, kubernetes: Kubernetes) -> tuple[list[NodeGroup], list[Engine]]:
    return cloud.node_groups(), kubernetes.engines()


def night(cloud: Any, kubernetes: Any, **settings: Any) -> Night:
    return Night(cloud, kubernetes, say=lambda line: None, wait_seconds=1, poll_seconds=0.01, **settings)


def test_resume_brings_everything_back_to_where_it_was(aws: EksNodeGroups) -> None:
    kubernetes = Kubernetes(aws)
    before = state(aws, kubernetes)
    night(aws, kubernetes).off()
    assert {group.name: group.size for group in aws.node_groups()} == {
        "system": Size(0, 0, 4),
        "gpu": Size(0, 0, 3),
    }
    assert kubernetes.engine_pods() == 0
    night(aws, kubernetes).resume()
    assert state(aws, kubernetes) == before


def test_both_commands_can_be_repeated(aws: EksNodeGroups) -> None:
    kubernetes = Kubernetes(aws)
    before = state(aws, kubernetes)
    night(aws, kubernetes).off()
    asleep = state(aws, kubernetes)
    night(aws, kubernetes).off()
    assert state(aws, kubernetes) == asleep
    night(aws, kubernetes).resume()
    night(aws, kubernetes).resume()
    assert state(aws, kubernetes) == before


@pytest.mark.parametrize("before_change", [True, False], ids=["before the change", "after the change"])
@pytest.mark.parametrize("first", ["off", "resume"])
@pytest.mark.parametrize("after", range(1, 7))
def test_an_interruption_anywhere_loses_no_size(
    aws: EksNodeGroups, after: int, first: str, before_change: bool
) -> None:
    kubernetes = Kubernetes(aws)
    before = state(aws, kubernetes)
    if first == "resume":
        night(aws, kubernetes).off()
    budget = [after]
    broken = night(Breaking(aws, budget, before_change), Breaking(kubernetes, budget, before_change))
    with pytest.raises(Interrupted):
        getattr(broken, first)()
    night(aws, kubernetes).off()
    night(aws, kubernetes).resume()
    assert state(aws, kubernetes) == before


def test_a_dry_run_changes_nothing(aws: EksNodeGroups) -> None:
    kubernetes = Kubernetes(aws)
    before = state(aws, kubernetes)
    night(aws, kubernetes, dry_run=True).off()
    night(aws, kubernetes, dry_run=True).resume()
    assert state(aws, kubernetes) == before
