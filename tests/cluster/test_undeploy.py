"""scripts/undeploy removes everything that scripts/deploy installed; then the umbrella chart installs it as one release."""

import pytest

from cluster.kubectl import Kubectl, run
from cluster.platform import ENVIRONMENT, NAMESPACES, Platform
from harness.kubernetes.umbrella import umbrella

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


def test_the_umbrella_installs_into_the_namespaces_of_the_secrets(
    platform: Platform, kubectl: Kubectl
) -> None:
    """The Secrets of docs/deploying.md come first, so the namespaces exist, and Helm must not want to own them."""
    chart = umbrella()
    values = ["-f", str(chart / "environments" / f"{ENVIRONMENT}.yaml"), *platform.values()]
    words = [
        "install",
        "llm",
        str(chart),
        "-n",
        "llm",
        "--create-namespace",
        *values,
        "--wait",
        "--timeout",
        "4m",
    ]
    run(platform.helm, *words, timeout=300)
    try:
        with platform.edge() as client:
            answer = platform.ask(client)
        assert answer.status_code == 200, answer.text
        assert platform.explain(answer.headers["x-request-id"])["outcome"] == "ok"
    finally:
        run(platform.helm, "uninstall", "llm", "-n", "llm", "--wait", timeout=180)
    assert set(NAMESPACES) <= set(
        kubectl("get", "namespaces", "-o", "name").replace("namespace/", "").split()
    )
