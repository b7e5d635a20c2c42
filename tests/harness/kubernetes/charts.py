"""Charts rendered by the real helm, with example values or a test's values."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.chart_fields import CHARTS as NAMES
from harness.kubernetes.tools import tool

HELM = Path(__file__).resolve().parents[3] / "helm"


ROOT = HELM.parent


CHARTS = [HELM / name for name in NAMES]


EXAMPLES = sorted(HELM.glob("*/examples/*.yaml"))


CONTRACT = yaml.safe_load((ROOT / "infrastructure" / "contract.yaml").read_text())


def helm(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("helm"), *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


@functools.cache
def template(
    chart: str, *values: object, apis: tuple[str, ...] = (), **sets: str
) -> subprocess.CompletedProcess[str]:
    """Render a chart, with ``sets`` as JSON values (``a__b`` is ``a.b``) and further ``apis`` of the cluster."""
    words = [word for file in values for word in ("-f", file)]
    words += [f"--api-versions={one}" for one in apis]
    words += [
        word for key, value in sets.items() for word in ("--set-json", f"{key.replace('__', '.')}={value}")
    ]
    return helm("template", "release", HELM / chart, "--namespace", "llm", *words)


def manifests(chart: str, *values: object, **sets: str) -> list[dict[str, Any]]:
    done = template(chart, *values, **sets)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)
    return found


def pod_specs(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("Pod", "Deployment", "StatefulSet", "DaemonSet")
    ]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def name_of(path: Path) -> str:
    return str(path.relative_to(HELM))


ROUTER, EDGE, REDIS, ENGINE = "router-service", "edge-gateway", "llm-redis", "inference-backend"


LIMITS = "rate-limit-service"


def engine_of(*values: object, **sets: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Return the pod's spec, its containers by name, and all documents."""
    documents = manifests(ENGINE, *values, **sets)
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    return spec, {container["name"]: container for container in containers(spec)}, documents


CRDS = ("--api-versions", "monitoring.coreos.com/v1", "--api-versions", "keda.sh/v1alpha1")


def with_crds(chart: str, example: str, *sets: str) -> list[dict[str, Any]]:
    words = [word for one_set in sets for word in ("--set-json", one_set)]
    done = helm(
        "template",
        "release",
        HELM / chart,
        "-n",
        "llm",
        "-f",
        HELM / chart / "examples" / example,
        *CRDS,
        *words,
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]
