"""The number of pods always has one owner, so switching on autoscaling or KEDA removes no pod.

A field that was applied once and is then left out falls back to its default, which for `replicas` is 1: with Helm 3's
three-way merge, with server-side apply (Helm 4) and with Argo CD and Flux alike. So no Deployment that can be scaled
names its replicas, in any mode, and no template asks the cluster (`lookup`).
"""

import re
import subprocess
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import HELM, merged, nested, read
from harness.kubernetes.tools import tool
from platform_tools.deploy.needs import CRD_VERSIONS, read_needs

pytestmark = pytest.mark.programs

MODES: dict[str, list[dict[str, Any]]] = {
    chart: [{}, *more]
    for chart, more in {
        "edge-gateway": [{"autoscaling": {"enabled": True}}],
        "rate-limit-service": [{"autoscaling": {"enabled": True}}],
        "router-service": [{"autoscaling": {"enabled": True}}, {"keda": {"enabled": True}}],
        "inference-backend": [{"keda": {"enabled": True, "minReplicas": 2}}],
    }.items()
}
CASES = [(chart, mode) for chart, modes in MODES.items() for mode in modes]


def rendered(chart: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    base = read(HELM / "tests/options" / f"{chart}.yaml").get("base", {})
    done = subprocess.run(
        [tool("helm"), "template", "r", HELM / chart, "-n", "llm", "-f", "-",
         *(f"--api-versions={version}" for version in CRD_VERSIONS)],
        input=yaml.safe_dump(merged(base, values)), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


@pytest.mark.parametrize(("chart", "mode"), CASES)
def test_one_autoscaler_owns_the_number_in_every_mode(chart: str, mode: dict[str, Any]) -> None:
    documents = rendered(chart, {"replicas": 3, **mode})
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    assert "replicas" not in deployment["spec"], "it would fall back to 1 where a later version leaves it out"
    owners = [one for one in documents if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    (owner,) = owners
    assert owner["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    least = owner["spec"].get("minReplicas", owner["spec"].get("minReplicaCount"))
    assert least == (2 if mode else 3)
    if owner["kind"] == "HorizontalPodAutoscaler":
        assert (owner["spec"]["maxReplicas"] > least) == bool(mode)


def test_an_engine_that_is_taken_away_has_no_autoscaler_to_bring_it_back() -> None:
    documents = rendered("inference-backend", {"replicas": 0})
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    assert deployment["spec"]["replicas"] == 0
    assert not [one for one in documents if one["kind"] == "HorizontalPodAutoscaler"]


def test_a_fixed_number_needs_no_metrics_server_and_its_gpus_are_counted() -> None:
    fixed = read_needs(("llm", one) for one in rendered("inference-backend", {"replicas": 3}))
    assert (fixed.metrics, fixed.gpus) == (False, 3)
    scaled = read_needs(("llm", one) for one in rendered("edge-gateway", nested("autoscaling.enabled", True)))
    assert scaled.metrics


def test_no_template_asks_the_cluster() -> None:
    """Argo CD and Flux render without one: `lookup` would return nothing there."""
    asking = [
        path.relative_to(HELM)
        for path in HELM.glob("*/templates/*")
        if re.search(r"\blookup\b", re.sub(r"\{\{/\*.*?\*/\}\}", "", path.read_text(), flags=re.DOTALL))
    ]
    assert asking == []
