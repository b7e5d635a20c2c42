"""The controller of rollouts: its rights, what mounts what it writes, and that no upgrade can reset it."""

from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from harness.kubernetes.charts import HELM, manifests, one
from podrunner.network import selects

pytestmark = pytest.mark.programs

EXAMPLE = HELM / "router-service/examples/with-rollout.yaml"
NAMES = {
    "its own": ({}, "router-service", "llm"),
    "overridden": (
        {"fullnameOverride": '"second"', "namespaceOverride": '"elsewhere"'},
        "second",
        "elsewhere",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_controller_role_and_volume_name_one_config_map_that_no_manifest_has(case: str) -> None:
    more, name, namespace = NAMES[case]
    documents = manifests("router-service", EXAMPLE, **more)
    weights = f"{name}-weights"
    assert not [
        found for found in documents if found["kind"] == "ConfigMap" and found["metadata"]["name"] == weights
    ], "Helm would reset it"
    assert one(documents, "Role", weights)["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [weights],
            "verbs": ["get", "create", "patch"],
        }
    ]
    (subject,) = one(documents, "RoleBinding", weights)["subjects"]
    pod = pod_of(documents, f"{name}-rollout")
    assert (subject["name"], subject["namespace"]) == (pod["serviceAccountName"], namespace)
    assert f"--config-map={namespace}/{weights}" in pod["containers"][0]["args"]
    router = pod_of(documents, name)
    assert {"name": "weights", "configMap": {"name": weights, "optional": True}} in router["volumes"]
    assert router["serviceAccountName"] != pod["serviceAccountName"]


@pytest.mark.parametrize("workload", ["router-service", "router-service-rollout"])
def test_the_weights_file_of_the_configuration_is_in_the_volume(workload: str) -> None:
    documents = manifests("router-service", EXAMPLE)
    config = yaml.safe_load(one(documents, "ConfigMap", "router-service")["data"]["router.yaml"])
    (container,) = pod_of(documents, workload)["containers"]
    mounts = {found["name"]: found for found in container["volumeMounts"]}
    file = PurePosixPath(mounts["config"]["mountPath"], config["routing"]["weights_file"])
    assert file.parts[-3:] == ("..", PurePosixPath(mounts["weights"]["mountPath"]).name, "weights.yaml")
    assert mounts["weights"].get("readOnly", False) == (workload == "router-service"), "routers never write"


def test_the_controller_is_no_endpoint_and_no_scrape_target() -> None:
    documents = manifests("router-service", EXAMPLE)
    labels = one(documents, "Deployment", "router-service-rollout")["spec"]["template"]["metadata"]["labels"]
    services = [found for found in documents if found["kind"] == "Service"]
    assert services
    for found in services:
        assert not selects({"matchLabels": found["spec"]["selector"]}, labels)
    redis = yaml.safe_load((HELM / "llm-redis/values.yaml").read_text())
    assert labels["app.kubernetes.io/name"] in redis["networkPolicy"]["clients"], "it needs the lock"


def pod_of(documents: list[dict[str, Any]], workload: str) -> dict[str, Any]:
    found: dict[str, Any] = one(documents, "Deployment", workload)["spec"]["template"]["spec"]
    return found
