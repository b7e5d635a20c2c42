"""Every chart has the values that readers of other charts expect; test_options.py verifies the effect of each."""

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS
from harness.kubernetes.charts import HELM

EVERYWHERE = {"nameOverride", "fullnameOverride", "namespaceOverride", "commonLabels", "global"}
WITH_PODS = {
    "podAnnotations", "podLabels", "affinity", "nodeSelector", "tolerations", "topologySpreadConstraints",
    "priorityClassName", "runtimeClassName", "extraEnv", "extraArgs", "extraVolumes", "extraVolumeMounts",
    "podSecurityContext", "securityContext", "startupSeconds", "imagePullSecrets", "image",
}  # fmt: skip
SERVICE = {
    "type",
    "annotations",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "ipFamilyPolicy",
    "ipFamilies",
}
FOR_USERS = {"edge-gateway", "llm-grafana", "console"}
"""Charts whose Service people or clients outside the cluster use."""
WITHOUT_PODS = {"observability"}
WITHOUT_METRICS = {"console", "observability"}


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_has_the_expected_values(chart: str) -> None:
    values = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    expected = set(EVERYWHERE)
    if chart not in WITHOUT_PODS:
        expected |= WITH_PODS | {"service"}
        assert values["service"].keys() >= SERVICE
        assert {"registry", "repository", "tag", "digest", "pullPolicy"} <= values["image"].keys()
    if chart not in WITHOUT_METRICS:
        expected.add("serviceMonitor")
        assert {"enabled", "labels", "interval"} <= values["serviceMonitor"].keys()
    if chart in FOR_USERS:
        expected |= {"ingress", "httpRoute"}
    assert expected - values.keys() == set()


def test_only_charts_for_users_have_an_entrance() -> None:
    with_entrance = {path.parents[1].name for path in HELM.glob("*/templates/entrance.yaml")}
    assert with_entrance == FOR_USERS
