"""Every image's entry point works under its container's security context, by the table image_entrypoints.yaml."""

import functools
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from harness.kubernetes.charts import HELM
from harness.kubernetes.deploy_script import ENVIRONMENTS, HANDED_OVER
from harness.kubernetes.tools import tool
from harness.stacks.local import ROOT
from platform_tools.deploy.releases import releases_of
from podrunner.platform_images import repository_of

pytestmark = pytest.mark.programs

TABLE: Mapping[str, Mapping[str, Any]] = yaml.safe_load(
    (HELM / "tests" / "image_entrypoints.yaml").read_text()
)
WRITABLE = ("emptyDir", "persistentVolumeClaim", "hostPath")
Spec = Mapping[str, Any]


def name_of(image: str) -> str:
    """Return the row of an image: its repository without registry, tag and digest."""
    registry = HANDED_OVER["global"]["registry"]
    parts = repository_of(image.replace(f"{registry}/", "llm-platform/")).split("/")
    return "/".join(parts[1:] if "." in parts[0] else parts)


@functools.cache
def pods_of(environment: str) -> tuple[tuple[str, Spec, tuple[str, ...]], ...]:
    """Return name, spec and claim templates of every workload of an environment.

    The pods of `helm test` set their own commands and write no files; test_helm_tests.py runs them.
    """
    found = []
    for release in releases_of(HELM, environment, []):
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), "-f", "-"],
            input=yaml.safe_dump(HANDED_OVER), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for one in yaml.load_all(done.stdout, yaml.CSafeLoader):
            if one and one["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
                spec = one["spec"]["template"]["spec"]
                claims = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])]
                found.append((f"{release.name}: {one['metadata']['name']}", spec, tuple(claims)))
    return tuple(found)


def writable_folders(spec: Spec, claims: tuple[str, ...], container: Spec) -> set[PurePosixPath]:
    volumes = {one["name"] for one in spec.get("volumes", []) if any(kind in one for kind in WRITABLE)}
    return {
        PurePosixPath(mount["mountPath"])
        for mount in container.get("volumeMounts", [])
        if mount["name"] in volumes | set(claims) and not mount.get("readOnly")
    }


def faults_of(spec: Spec, claims: tuple[str, ...], container: Spec) -> Iterator[str]:
    """Yield each requirement of the image's entry point that the container does not satisfy."""
    name = name_of(container["image"])
    row = TABLE.get(name)
    if row is None:
        yield f"{name} is not in image_entrypoints.yaml"
        return
    if row["command"] == "chart" and "command" not in container:
        yield f"{name}: the chart gives no command"
    if row["command"] == "image" and "command" in container:
        yield f"{name}: the chart replaces the entry point that was checked"
    context = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    if row["user"] != "any" and context.get("runAsUser") != row["user"]:
        yield f"{name} works only as user {row['user']}, not {context.get('runAsUser')}"
    environment = {one["name"]: one.get("value", "") for one in container.get("env", [])}
    for variable, word in row.get("environment", {}).items():
        if word not in environment.get(variable, "").split(","):
            yield f"{name} needs {word} in {variable}"
    if context.get("readOnlyRootFilesystem"):
        folders = writable_folders(spec, claims, container)
        for path in map(PurePosixPath, row["writes"]):
            if not folders & {path, *path.parents}:
                yield f"{name} writes {path}, which is read-only"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_container_lets_its_image_write_and_run(environment: str) -> None:
    pods = pods_of(environment)
    assert len(pods) > 7
    found = [
        f"{pod}: {container['name']}: {fault}"
        for pod, spec, claims in pods
        for container in [*spec.get("initContainers", []), *spec["containers"]]
        for fault in faults_of(spec, claims, container)
    ]
    assert found == []


def test_the_table_names_only_images_that_a_chart_uses() -> None:
    used = {
        name_of(container["image"])
        for environment in ENVIRONMENTS
        for _, spec, _ in pods_of(environment)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    }
    assert TABLE.keys() == used


def test_versions_in_sources_are_those_of_versions_yaml() -> None:
    images = yaml.safe_load((ROOT / "versions.yaml").read_text())["images"]
    for facts in images.values():
        row = next((row for name, row in TABLE.items() if facts["source"].endswith(f"/{name}")), None)
        if row and row["checked"] == "read":
            assert facts["version"].removeprefix("v").split("-ubuntu")[0] in row["source"], facts["source"]


def planted(changes: Mapping[str, Any], **variables: str) -> list[str]:
    """Return the faults of dcgm-exporter's container with other settings and variables."""
    (found,) = (
        (spec, claims) for name, spec, claims in pods_of("prod") if name == "dcgm-exporter: dcgm-exporter"
    )
    spec, claims = found
    (container,) = spec["containers"]
    context = {**container["securityContext"], **changes}
    env = [{**one, "value": variables.get(one["name"], one.get("value", ""))} for one in container["env"]]
    return list(faults_of(spec, claims, {**container, "securityContext": context, "env": env}))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"readOnlyRootFilesystem": True}, "nvidia/k8s/dcgm-exporter writes /etc, which is read-only"),
        ({"runAsUser": 65532}, "nvidia/k8s/dcgm-exporter works only as user 0, not 65532"),
    ],
)
def test_a_planted_fault_is_reported(changes: Mapping[str, Any], fault: str) -> None:
    """With a read-only root, the exporter's entry point dies in ldconfig."""
    assert planted({}) == []
    assert planted(changes) == [fault]


def test_a_missing_driver_capability_is_reported() -> None:
    found = planted({}, NVIDIA_DRIVER_CAPABILITIES="utility")
    assert found == ["nvidia/k8s/dcgm-exporter needs compute in NVIDIA_DRIVER_CAPABILITIES"]


def test_a_removed_volume_is_reported() -> None:
    """Loki's compactor writes /tmp."""
    (found,) = ((spec, claims) for name, spec, claims in pods_of("prod") if name == "loki: loki")
    spec, claims = found
    (container,) = spec["containers"]
    mounts = [mount for mount in container["volumeMounts"] if mount["mountPath"] != "/tmp"]
    assert list(faults_of(spec, claims, {**container, "volumeMounts": mounts})) == [
        "grafana/loki writes /tmp, which is read-only"
    ]
