"""scripts/undeploy removes everything that scripts/deploy installed."""

import pytest

from cluster.kubectl import Kubectl
from cluster.platform import NAMESPACES, Platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# Objects that Kubernetes creates in every namespace, and those that the operator creates after
# docs/deploying.md.
NOT_OURS = {
    "configmap/kube-root-ca.crt",
    "serviceaccount/default",
    "secret/redis",
    "secret/grafana",
    "secret/edge-routes",
}


def test_undeploy_leaves_nothing(platform: Platform, kubectl: Kubectl) -> None:
    print(platform.deploy("undeploy"))
    kinds = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,hpa,pvc"
    left = {
        f"{name}"
        for namespace in NAMESPACES
        for name in kubectl("get", kinds, "-n", namespace, "-o", "name").split()
        if name.replace(".v1", "").split("/")[0].split(".")[0] + "/" + name.split("/")[1] not in NOT_OURS
    }
    assert left == set()
    cluster_wide = kubectl(
        "get",
        "clusterroles,clusterrolebindings",
        "-l",
        "app.kubernetes.io/part-of=llm-platform",
        "-o",
        "name",
    )
    assert cluster_wide.strip() == ""
