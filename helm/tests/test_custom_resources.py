"""The charts' custom resources conform to the operators' schemas."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.tools import tool
from harness.npm import installed
from platform_tools.deploy.needs import CRD_VERSIONS

pytestmark = pytest.mark.programs

HELM = Path(__file__).resolve().parents[1]
ROUTE = 'httpRoute={"enabled": true, "parentRefs": [{"name": "gateway"}], "hostnames": ["llm.example.com"]}'
OFFERS = {
    ("edge-gateway", "internal.yaml"): [
        'serviceMonitor={"enabled": true}',
        ROUTE,
    ],
    ("edge-gateway", "tls.yaml"): [
        'tls.certManager={"enabled": true, "issuer": {"name": "ours"}, "dnsNames": ["llm.example.com"]}'
    ],
    ("rate-limit-service", "one-budget.yaml"): ['serviceMonitor={"enabled": true}'],
    ("router-service", "two-pools.yaml"): ['serviceMonitor={"enabled": true}', 'keda={"enabled": true}'],
    ("inference-backend", "mistral-7b.yaml"): [
        'serviceMonitor={"enabled": true}',
        'podMonitor={"enabled": true}',
        'keda={"enabled": true}',
    ],
    ("llm-grafana", "ingress.yaml"): [ROUTE],
    ("console", "behind-a-proxy.yaml"): [ROUTE],
    ("observability", "default.yaml"): ['prometheusRule={"enabled": true}', 'podMonitors={"enabled": true}'],
}
"""Chart and example, with every option that renders a custom resource."""
GROUPS = tuple(f"apiVersion: {version.partition('/')[0]}" for version in CRD_VERSIONS)
KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "Certificate", "HTTPRoute"}


@pytest.fixture(scope="module")
def schemas() -> Path:
    return installed(Path(__file__).parent / "custom_resources")


@pytest.fixture(scope="module")
def resources() -> list[dict[str, Any]]:
    found = []
    for (chart, example), options in OFFERS.items():
        command = [tool("helm"), "template", "release", HELM / chart, "-n", "llm"]
        command += ["-f", HELM / chart / "examples" / example]
        command += [f"--api-versions={version}" for version in CRD_VERSIONS]
        command += [word for option in options for word in ("--set-json", option)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        documents = [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]
        found += [d for d in documents if "." in d["apiVersion"].partition("/")[0] and d["kind"] in KINDS]
    return found


def wrong(schemas: Path, manifests: list[dict[str, Any]]) -> list[str | None]:
    """Return the schema errors of each manifest, None without errors."""
    lines = "".join(json.dumps(manifest) + "\n" for manifest in manifests)
    done = subprocess.run(
        ["node", "validate.mjs"], cwd=schemas, input=lines, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_custom_resource_fits_its_schema(schemas: Path, resources: list[dict[str, Any]]) -> None:
    assert {resource["kind"] for resource in resources} == KINDS
    for resource, says in zip(resources, wrong(schemas, resources), strict=True):
        assert says is None, f"{resource['kind']} {resource['metadata']['name']}: {says}"


def test_a_planted_error_is_found_in_each_kind(schemas: Path, resources: list[dict[str, Any]]) -> None:
    broken = [copy.deepcopy(resource) for resource in resources]
    for resource in broken:
        resource["spec"][next(iter(resource["spec"]))] = 7
    for resource, says in zip(broken, wrong(schemas, broken), strict=True):
        assert says is not None, resource


def test_no_chart_renders_a_custom_resource_that_is_not_looked_at(resources: list[dict[str, Any]]) -> None:
    offered = {
        line.split()[1]
        for template in [*HELM.glob("*/templates/*.yaml"), HELM / "shared/_names.tpl"]
        for before, line in zip(
            ["", *template.read_text().splitlines()], template.read_text().splitlines(), strict=False
        )
        if line.startswith("kind: ") and before.startswith(GROUPS)
    }
    assert offered == {resource["kind"] for resource in resources}
