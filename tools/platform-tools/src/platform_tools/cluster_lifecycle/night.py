"""The order of night-off and resume. Owns where sizes are stored. Must not depend on AWS or Kubernetes
clients.

Every object stores its own size (a workload in an annotation, a node group in a tag), so no state file can be
lost: after an interruption either command can be run again, on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Size:
    """Size of a node group."""

    minimum: int
    desired: int
    maximum: int

    def __str__(self) -> str:
        return f"{self.minimum}-{self.desired}-{self.maximum}"

    @classmethod
    def parse(cls, text: str) -> Size:
        minimum, desired, maximum = (int(part) for part in text.split("-"))
        return cls(minimum, desired, maximum)


@dataclass(frozen=True)
class NodeGroup:
    name: str
    size: Size
    is_gpu: bool
    instance_type: str
    capacity_type: str
    remembered: Size | None


@dataclass(frozen=True)
class Engine:
    """A Deployment or StatefulSet of an engine."""

    kind: str
    namespace: str
    name: str
    replicas: int
    ready: int
    remembered: int | None


class Cloud(Protocol):
    def node_groups(self) -> list[NodeGroup]: ...
    def remember(self, group: NodeGroup) -> None: ...
    def forget(self, group: NodeGroup) -> None: ...
    def resize(self, group: NodeGroup, size: Size) -> None: ...


class Kubernetes(Protocol):
    def engines(self) -> list[Engine]: ...
    def rest(self, engine: Engine) -> None: ...
    def wake(self, engine: Engine) -> None: ...
    def engine_pods(self) -> int: ...
    def ready_nodes(self) -> int: ...
    def allocatable_gpus(self) -> int: ...


class NotInTime(RuntimeError):
    """A wait timed out; the command can be run again."""


@dataclass
class Night:
    cloud: Cloud
    kubernetes: Kubernetes
    say: Callable[[str], None]
    wait_seconds: float = 1800.0
    poll_seconds: float = 5.0
    dry_run: bool = False

    def off(self) -> None:
        """Drain and stop the engines, then remove GPU nodes, then system nodes."""
        groups = self.cloud.node_groups()
        if any(group.size.desired for group in groups):
            for engine in self.kubernetes.engines():
                if engine.replicas:
                    self.say(
                        f"{engine.kind} {engine.namespace}/{engine.name}: {engine.replicas} replicas to 0"
                    )
                    if not self.dry_run:
                        self.kubernetes.rest(engine)
            if not self.dry_run:
                self._wait("engine pods to end", lambda: self.kubernetes.engine_pods() == 0)
        for group in sorted(groups, key=lambda group: not group.is_gpu):
            resting = Size(0, 0, group.size.maximum)
            if group.size == resting:
                continue
            self.say(f"node group {group.name}: {group.size.desired} nodes to 0")
            if self.dry_run:
                continue
            if group.remembered is None:
                self.cloud.remember(group)
            self.cloud.resize(group, resting)

    def resume(self) -> None:
        """Start system nodes, then GPU nodes until their GPUs are allocatable, then engines."""
        asleep = sorted(
            (group for group in self.cloud.node_groups() if group.remembered), key=lambda group: group.is_gpu
        )
        for group in asleep:
            assert group.remembered is not None
            self.say(f"node group {group.name}: {group.size.desired} to {group.remembered.desired} nodes")
            if not self.dry_run and group.size != group.remembered:
                self.cloud.resize(group, group.remembered)
        if self.dry_run:
            return
        groups = self.cloud.node_groups()
        nodes = sum(group.size.desired for group in groups)
        gpu_nodes = sum(group.size.desired for group in groups if group.is_gpu)
        self._wait(f"{nodes} nodes", lambda: self.kubernetes.ready_nodes() >= nodes)
        self._wait("GPUs to be allocatable", lambda: self.kubernetes.allocatable_gpus() >= gpu_nodes)
        for engine in self.kubernetes.engines():
            if engine.remembered is not None:
                self.say(f"{engine.kind} {engine.namespace}/{engine.name}: to {engine.remembered} replicas")
                self.kubernetes.wake(engine)
        # Remove the stored sizes last, so that a second run can repeat every step before.
        for group in asleep:
            self.cloud.forget(group)
        self._wait(
            "engines to be ready",
            lambda: all(engine.ready >= engine.replicas for engine in self.kubernetes.engines()),
        )

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while not done():
            if time.monotonic() > deadline:
                raise NotInTime(f"waited {self.wait_seconds:g} s for {what}; run the command again to go on")
            self.say(f"waiting for {what}")
            time.sleep(self.poll_seconds)
