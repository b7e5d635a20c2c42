"""Pods that read the host run in a separate namespace; all others meet the restricted standard.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

import functools
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.tools import tool
from platform_tools.deploy.releases import namespaces_of, releases_of

pytestmark = pytest.mark.programs

HELM = Path(__file__).resolve().parents[1]
ENVIRONMENTS = sorted(path.name for path in (HELM / "environments").iterdir() if path.is_dir())
ENFORCE = "pod-security.kubernetes.io/enforce"
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
HANDED_OVER = {"global": {"region": "eu-central-1", "buckets": {"models": "m", "logs": "l", "traces": "t"}}}


@functools.cache
def pods_of(environment: str) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """Return namespace, name and spec of every pod, those of `helm test` too."""
    found = []
    for release in releases_of(HELM, environment, []):
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), "-f", "-"], input=yaml.safe_dump(HANDED_OVER),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for one in filter(None, yaml.load_all(done.stdout, yaml.CSafeLoader)):
            facts = one["metadata"]
            spec = (
                one["spec"] if one["kind"] == "Pod" else one.get("spec", {}).get("template", {}).get("spec")
            )
            if spec and "containers" in spec:
                found.append((facts.get("namespace", release.namespace), facts["name"], spec))
    return tuple(found)


def levels_of(environment: str) -> dict[str, str]:
    made = namespaces_of(HELM, releases_of(HELM, environment, []))
    return {one["metadata"]["name"]: one["metadata"]["labels"][ENFORCE] for one in made}


def violations(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield each setting of a pod that the restricted standard rejects."""
    pod = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        yield from (f"volume {volume['name']}: {kind}" for kind in volume.keys() - VOLUMES - {"name"})
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        security = {**pod, **container.get("securityContext", {})}
        capabilities = security.get("capabilities", {})
        wrong = {
            "privileged": security.get("privileged", False),
            "runs as root": not security.get("runAsNonRoot") or security.get("runAsUser") == 0,
            "privilege escalation": security.get("allowPrivilegeEscalation", True),
            "capabilities": capabilities.get("drop") != ["ALL"] or "add" in capabilities,
            "seccomp": security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "host port": any("hostPort" in port for port in container.get("ports", [])),
        }
        yield from (f"{container['name']}: {what}" for what, found in wrong.items() if found)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_pod_fits_the_level_of_its_namespace(environment: str) -> None:
    levels = levels_of(environment)
    for namespace, name, spec in pods_of(environment):
        if levels[namespace] == "restricted":
            assert list(violations(spec)) == [], f"{namespace}/{name}"
    assert levels["llm"] == levels["observability"] == "restricted"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_privileged_namespace_holds_only_what_needs_it(environment: str) -> None:
    levels = levels_of(environment)
    for namespace, name, spec in pods_of(environment):
        if levels[namespace] == "privileged" and not name.endswith("-test"):
            assert list(violations(spec)), f"{name} could run in a restricted namespace"


def test_a_reader_of_the_host_is_found() -> None:
    (spec,) = (spec for _, name, spec in pods_of("prod") if name == "dcgm-exporter")
    found = set(violations(spec))
    assert {
        "volume pod-resources: hostPath",
        "dcgm-exporter: runs as root",
        "dcgm-exporter: capabilities",
    } <= found
