"""`scripts/deploy` lists everything that a cluster lacks at once, each with its remedy."""

import subprocess
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import HELM
from harness.kubernetes.deploy_script import Script
from harness.kubernetes.fake_api_server import FakeKubernetes
from harness.kubernetes.tools import tool
from platform_tools.deploy.needs import CRD_VERSIONS, read_needs
from platform_tools.deploy.prerequisites import Cluster, lacks
from platform_tools.deploy.releases import releases_of

pytestmark = pytest.mark.programs

LACKS = {
    "nodes": "no node has nvidia.com/gpu: are GPU nodes up",
    "storageclasses": 'there is no storage class "ebs-csi-default-sc" (known: none)',
    "apiservices": "metrics-server is missing",
    "deployments": "aws-load-balancer-controller is not in kube-system: install it with --upstream, or set service.type",
    "daemonsets": "nvidia-device-plugin is not in kube-system: install it with --upstream",
    "secrets": "there is no Secret edge-routes in llm: edge-gateway routes",
}


def test_all_that_is_missing_is_said_at_once_with_its_remedy_and_nothing_is_installed(
    script: Script, cluster: FakeKubernetes
) -> None:
    for resource in LACKS:
        cluster.objects[resource].clear()
    done = script("deploy", "prod", "-f", str(script.values))
    assert done.returncode == 1
    for said in LACKS.values():
        assert said in done.stderr
    assert "nothing was installed" in done.stderr
    assert script.installed == []


@pytest.mark.parametrize("resource", LACKS)
def test_each_missing_object_is_one_line(resource: str, script: Script, cluster: FakeKubernetes) -> None:
    cluster.objects[resource].clear()
    done = script("deploy", "prod", "-f", str(script.values), "--dry-run")
    assert done.returncode == 1
    assert LACKS[resource] in done.stderr
    lines = {"secrets": 4, "deployments": 3, "daemonsets": 2}.get(resource, 1)
    assert sum("missing:" in line for line in done.stderr.splitlines()) == lines


def test_a_secret_without_its_key_is_named(script: Script, cluster: FakeKubernetes) -> None:
    cluster.objects["secrets"][0]["data"] = {"pass": "eA=="}
    done = script("deploy", "kind", "--dry-run")
    assert done.returncode == 1
    assert (
        "the Secret redis in llm has no key password: kubectl -n llm create secret generic redis"
        in done.stderr
    )


def test_operators_that_values_ask_for_are_missed_by_name_and_cert_manager_fills_its_own_secret(
    cluster: FakeKubernetes, tmp_path: Path
) -> None:
    """Render as scripts/deploy does: as if every operator were installed."""
    documents = []
    for release in releases_of(HELM, "prod", []):
        more = {
            "edge": ["--set-json",
                     'tls.certManager={"enabled": true, "issuer": {"name": "ours"}, "dnsNames": ["llm.example.com"]}'],
            "llama-8b": ["--set", "keda.enabled=true"],
        }.get(release.name)  # fmt: skip
        if more:
            command = [tool("helm"), "template", *release.words(), *more]
            command += [f"--api-versions={one}" for one in CRD_VERSIONS]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stderr
            documents += [
                (release.namespace, one) for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one
            ]
    needs = read_needs(documents)
    assert ("llm", "edge-routes") in needs.secrets
    assert ("llm", "edge-tls") not in needs.secrets
    kubectl = [str(tool("kubectl")), "--kubeconfig", str(cluster.kubeconfig(tmp_path / "kubeconfig"))]
    missing, _ = lacks(Cluster(kubectl), needs)
    assert missing == [
        "the CRDs of cert-manager.io are missing: install cert-manager, or create the Secret yourself and set "
        "tls.certManager.enabled to false",
        "the CRDs of keda.sh are missing: install KEDA, or set keda.enabled to false",
    ]


def test_too_few_gpus_are_a_note_since_nodes_may_still_come(script: Script, cluster: FakeKubernetes) -> None:
    cluster.objects["nodes"][0]["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    done = script("deploy", "prod", "-f", str(script.values), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "4 GPUs are needed and 1 exist" in done.stdout


def test_kind_needs_no_gpu_no_load_balancer_and_no_values_from_terraform(
    script: Script, cluster: FakeKubernetes
) -> None:
    for resource in ("nodes", "deployments", "apiservices", "storageclasses"):
        cluster.objects[resource].clear()
    done = script("deploy", "kind", "--dry-run")
    assert done.returncode == 0, done.stderr
