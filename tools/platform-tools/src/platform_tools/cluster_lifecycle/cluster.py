"""The order of steps that creates or destroys a cluster.

Asks for confirmation first. Must not depend on terraform, AWS or kubectl.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml


class Stopped(RuntimeError):
    """The user declined, or a step timed out; no further step ran."""


class Terraform(Protocol):
    @property
    def state(self) -> str: ...
    def init(self) -> None: ...
    def plan(self, file: Path, *, destroy: bool = False) -> bool: ...
    def apply(self, file: Path) -> None: ...
    def output(self, name: str) -> Any: ...
    def kept(self, plan: Path) -> list[tuple[str, str]]: ...


class Kubernetes(Protocol):
    def entrances(self) -> list[str]: ...
    def delete_entrance(self, entrance: str) -> None: ...
    def claims(self) -> list[str]: ...
    def claims_in_use(self) -> list[str]: ...
    def delete_claim(self, claim: str) -> None: ...
    def volumes(self) -> list[str]: ...


@dataclass
class Cluster:
    """One environment.

    ``name`` is shown in every confirmation: the ARN, once the cluster exists. ``kubernetes()`` returns access
    to its API, None if no cluster exists. ``protected`` is EKS's deletion protection. ``confirm(question)``
    returns the user's answer; ``load_balancers()`` lists those that still exist in AWS.
    ``with_content(kept)`` lists those of Terraform's kept buckets and repositories that are not empty.
    """

    environment: str
    folder: Path
    terraform: Terraform
    name: str
    kubernetes: Callable[[], Kubernetes] | None
    protected: bool
    load_balancers: Callable[[], list[str]]
    with_content: Callable[[list[tuple[str, str]]], list[str]]
    say: Callable[[str], None]
    confirm: Callable[[str], bool]
    wait_seconds: float = 600.0
    poll_seconds: float = 5.0

    @property
    def values_file(self) -> Path:
        """Helm values of this cluster for the platform's charts."""
        return self.folder / f"{self.environment}.values.yaml"

    def release_file(self, release: str) -> Path:
        """Helm values of this cluster for the release of an upstream chart."""
        return self.folder / f"{self.environment}.{release}.values.yaml"

    def up(self) -> None:
        """Plan, show the plan, ask, apply; then write the charts' values.

        Repeatable: an unchanged cluster is left alone.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.folder / f"{self.environment}.plan"
        self.terraform.init()
        if self.terraform.plan(plan):
            if not self.confirm(f"Make or change {self.name} as planned above?"):
                raise Stopped("nothing was changed")
            self.terraform.apply(plan)
        else:
            self.say("the cluster is up to date")
        plan.unlink(missing_ok=True)
        values = self.terraform.output("deploy_values")
        self.values_file.write_text(yaml.safe_dump(values, sort_keys=False))
        for release, own in self.terraform.output("release_values").items():
            self.release_file(release).write_text(yaml.safe_dump(own, sort_keys=False))
        access = self.terraform.output("access")
        self.say(f"Terraform state: {self.terraform.state}")
        self.say(f"values for the charts: {self.values_file} (scripts/deploy {self.environment} takes them)")
        self.say(
            f"its API is private: reach it through instance {access['instance_id']}, docs/infrastructure.md"
        )

    def down(self) -> None:
        """Check, show the plan, ask, remove what Kubernetes created in AWS, wait until it is gone, destroy.

        Load balancers and volumes belong to Kubernetes, not to Terraform. Remaining load balancers use the
        subnets, so the destroy fails. Remaining volumes cost money, and only the EBS driver deletes them,
        which the destroy removes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.protected:
            raise Stopped(
                f"{self.name} has deletion protection: switch it off with the environment's variable "
                "(docs/infrastructure.md), run scripts/cluster-up, then run this again. Nothing was changed"
            )
        plan = self.folder / f"{self.environment}.destroy.plan"
        self.terraform.init()
        if not self.terraform.plan(plan, destroy=True):
            self.say("there is nothing to destroy")
            return
        if full := self.with_content(self.terraform.kept(plan)):
            raise Stopped(
                f"Terraform refuses to delete what holds data: {', '.join(full)}; copy what you need, set "
                f"force_destroy = true in {self.environment}.local.tfvars, run scripts/cluster-up {self.environment}, then "
                "run this again. Nothing was changed"
            )
        kubernetes = self.kubernetes() if self.kubernetes else None
        if kubernetes and (used := kubernetes.claims_in_use()):
            raise Stopped(
                f"pods still use volumes: {', '.join(used)}; run scripts/undeploy {self.environment} first. "
                "Nothing was changed"
            )
        entrances = kubernetes.entrances() if kubernetes else []
        claims = kubernetes.claims() if kubernetes else []
        for entrance in entrances:
            self.say(f"will be deleted first, with its load balancer: {entrance}")
        for claim in claims:
            self.say(f"will be deleted first, with its volume and data: {claim}")
        if not self.confirm(f"Destroy everything of {self.name} as planned above, data included?"):
            raise Stopped("nothing was changed")
        if kubernetes:
            for entrance in entrances:
                kubernetes.delete_entrance(entrance)
            for claim in claims:
                kubernetes.delete_claim(claim)
            self._wait("volumes", kubernetes.volumes)
        self._wait("load balancers", self.load_balancers)
        self.terraform.apply(plan)
        plan.unlink(missing_ok=True)
        for file in self.folder.glob(f"{self.environment}.*values.yaml"):
            file.unlink()
        self.say(f"{self.name} is destroyed. What remains: the Terraform state ({self.terraform.state})")

    def _wait(self, what: str, left: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while remaining := left():
            if time.monotonic() > deadline:
                raise Stopped(
                    f"after {self.wait_seconds:g} s these {what} are still there: {', '.join(remaining)}; "
                    "nothing was destroyed, run it again to go on"
                )
            self.say(f"waiting for {len(remaining)} {what} to go")
            time.sleep(self.poll_seconds)
