"""Whole environments, rendered: the manifests of all releases, each with its namespace."""

import functools
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.tools import tool
from platform_tools.deploy.releases import releases_of

ROOT = Path(__file__).resolve().parents[3]


HELM = ROOT / "helm"


ENVIRONMENTS = ("dev", "kind", "prod", "sim")


WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


HANDED_OVER = {"global": {"region": "eu-central-1", "buckets": {"models": "m", "logs": "l", "traces": "t"}}}


CONTRACT = yaml.safe_load((ROOT / "infrastructure/contract.yaml").read_text())


Document = dict[str, Any]


@functools.cache
def documents_of(environment: str) -> list[Document]:
    """Return every manifest, each with its namespace."""
    found: list[Document] = []
    for release in releases_of(HELM, environment, []):
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), "-f", "-"],
            input=yaml.safe_dump(HANDED_OVER if environment not in ("kind", "sim") else {}),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for one in filter(None, yaml.load_all(done.stdout, yaml.CSafeLoader)):
            one["metadata"].setdefault("namespace", release.namespace)
            found.append(one)
    return found


def of_kind(environment: str, *kinds: str) -> list[Document]:
    return [one for one in documents_of(environment) if one["kind"] in kinds]


def the(environment: str, kind: str, name: str) -> Document:
    (found,) = (one for one in of_kind(environment, kind) if one["metadata"]["name"] == name)
    return found


def containers(spec: Mapping[str, Any]) -> list[Document]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def serving(environment: str) -> Iterator[tuple[str, Document]]:
    """Yield every long-running container with the name of its workload."""
    for one in of_kind(environment, *WORKLOADS):
        for container in containers(one["spec"]["template"]["spec"]):
            if "ports" in container:
                yield f"{one['metadata']['name']}/{container['name']}", container


def engines(environment: str) -> list[str]:
    return [
        one["metadata"]["name"]
        for one in of_kind(environment, "Deployment")
        if one["metadata"]["labels"].get("app.kubernetes.io/component") == "inference-engine"
    ]
