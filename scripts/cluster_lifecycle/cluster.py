"""The order in which a cluster is made and taken down. Knows no terraform, AWS or kubectl; asks before it acts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml


class Stopped(RuntimeError):
    """The person said no, or something was not in time; nothing more was done."""


class Terraform(Protocol):
    def init(self) -> None: ...
    def plan(self, file: Path, *, destroy: bool = False) -> bool: ...
    def apply(self, file: Path) -> None: ...
    def output(self, name: str) -> Any: ...


class Kubernetes(Protocol):
    def entrances(self) -> list[str]: ...
    def delete_entrance(self, entrance: str) -> None: ...


@dataclass
class Cluster:
    """One environment. ``confirm(question)`` is the person's yes; ``load_balancers()`` is what AWS still has."""

    environment: str
    folder: Path
    terraform: Terraform
    kubernetes: Kubernetes
    load_balancers: Callable[[], list[str]]
    say: Callable[[str], None]
    confirm: Callable[[str], bool]
    wait_seconds: float = 600.0
    poll_seconds: float = 5.0

    @property
    def values_file(self) -> Path:
        """What the charts get to know of this cluster."""
        return self.folder / f"{self.environment}.values.yaml"

    def up(self) -> None:
        """Plan, show, ask, apply; then write the charts' values. Repeatable: an unchanged cluster is left alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.folder / f"{self.environment}.plan"
        self.terraform.init()
        if self.terraform.plan(plan):
            if not self.confirm(f"Make or change the cluster of {self.environment} as planned above?"):
                raise Stopped("nothing was changed")
            self.terraform.apply(plan)
        else:
            self.say("the cluster is as it should be")
        plan.unlink(missing_ok=True)
        values = self.terraform.output("deploy_values")
        self.values_file.write_text(yaml.safe_dump(values, sort_keys=False))
        access = self.terraform.output("access")
        self.say(f"values for the charts: {self.values_file} (scripts/deploy {self.environment} takes them)")
        self.say(
            f"its API is private: reach it through instance {access['instance_id']}, docs/infrastructure.md"
        )

    def down(self) -> None:
        """Show, ask, remove what Kubernetes made in AWS, wait until it is gone, destroy.

        Load balancers belong to Kubernetes, not to Terraform: left behind they hold the subnets, and the
        destroy hangs for minutes and fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.folder / f"{self.environment}.destroy.plan"
        self.terraform.init()
        if not self.terraform.plan(plan, destroy=True):
            self.say("there is nothing to destroy")
            return
        entrances = self.kubernetes.entrances()
        for entrance in entrances:
            self.say(f"will be deleted first, with its load balancer: {entrance}")
        if not self.confirm(f"Destroy everything of {self.environment} as planned above, data included?"):
            raise Stopped("nothing was changed")
        for entrance in entrances:
            self.kubernetes.delete_entrance(entrance)
        deadline = time.monotonic() + self.wait_seconds
        while left := self.load_balancers():
            if time.monotonic() > deadline:
                raise Stopped(
                    f"after {self.wait_seconds:g} s these load balancers are still there: {', '.join(left)}"
                )
            self.say(f"waiting for {len(left)} load balancers to go")
            time.sleep(self.poll_seconds)
        self.terraform.apply(plan)
        plan.unlink(missing_ok=True)
        self.values_file.unlink(missing_ok=True)
