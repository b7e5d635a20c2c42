"""The manifests of an environment, made runnable on one machine: overrides, routes and Prometheus's targets."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.tools import tool
from platform_tools.deploy.releases import releases_of
from podrunner.cluster import Cluster
from podrunner.platform_images import NOT_RUNNABLE, repository_of

ROOT = Path(__file__).resolve().parents[3]
TRIAL_KEY = "sk-" + "t" * 40
OVERRIDES = {
    # A client whose budget of a minute is one short completion.
    "rate-limits": ["--set-json", 'limits.clients={"trial": {"tokens_per_minute": 60}}'],
    "router": ["--set", "rollout.enabled=true"],
    # The hub is not reachable, so the weights are a folder on the node.
    "smollm2": ["--set", "weights.source=/models/source", "--set", "weights.cache.kind=hostPath"],
}


def rendered(environment: str, weights: Path) -> list[dict[str, Any]]:
    """Return the manifests of every release with the overrides, each with its namespace."""
    own = {"smollm2": [*OVERRIDES["smollm2"], "--set", f"weights.cache.hostPath={weights}"]}
    return manifests_of(environment, OVERRIDES | own)


def manifests_of(environment: str, more: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the manifests of every release, each with its namespace; ``more`` are Helm's arguments by release."""
    found = []
    for release in releases_of(ROOT / "helm", environment, []):
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), *more.get(release.name, ())],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for document in filter(None, yaml.load_all(done.stdout, yaml.CSafeLoader)):
            document["metadata"].setdefault("namespace", release.namespace)
            found.append(document)
    return found


def runnable(document: dict[str, Any]) -> bool:
    """Return whether this machine has an image for every container."""
    if document["kind"] not in ("Deployment", "StatefulSet", "Pod"):
        return True
    spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
    return not any(repository_of(one["image"]) in NOT_RUNNABLE for one in spec["containers"])


def routes(folder: Path, *keys: str) -> str:
    """Return the route table for the Secret, made as in docs/deploying.md."""
    clients = {"tester": list(keys), "trial": [TRIAL_KEY]}
    (folder / "keys.yaml").write_text(yaml.safe_dump({"clients": clients}))
    (folder / "keys.yaml").chmod(0o600)
    done = subprocess.run(
        [Path(sys.executable).parent / "edge-gateway", "routes", "--settings",
         ROOT / "services/edge-gateway/envoy/cluster.yaml", "--keys-file", folder / "keys.yaml",
         "--out", folder / "routes.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "routes.yaml").read_text()


def scraped(config: str, kube: Cluster) -> str:
    """Return prometheus.yml with the pods listed: Debian builds Prometheus without Kubernetes discovery.

    The list has the labels that discovery would find, for the chart's relabelling.
    """
    document = yaml.safe_load(config)
    targets = []
    for pod in kube.pods:
        labels = {f"__meta_kubernetes_pod_label_{key.replace('.', '_').replace('/', '_').replace('-', '_')}": value
                  for key, value in pod.labels.items()}  # fmt: skip
        for name, port in pod.ports.items():
            targets.append({
                "targets": [f"{pod.ip}:{port}"],
                "labels": {**labels, "__meta_kubernetes_pod_container_port_name": name,
                           "__meta_kubernetes_pod_name": pod.name, "__meta_kubernetes_pod_phase": "Running",
                           "__meta_kubernetes_namespace": pod.namespace,
                           "__meta_kubernetes_pod_node_name": "node"},
            })  # fmt: skip
    for job in document["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs")
        job["static_configs"] = targets
    document["global"]["scrape_interval"] = "1s"
    return yaml.safe_dump(document)
