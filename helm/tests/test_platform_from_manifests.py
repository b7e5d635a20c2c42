"""The whole platform from its rendered manifests: commands, configuration, users, probes, stop hooks and policies.

Every pod of the `kind` environment has network, mount and process namespaces of its own (tests/harness/pods);
the engine's vLLM is the simulator here, and the real one in tests/e2e.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.kubernetes_tools import tool
from harness.pods.cluster import Cluster, cluster
from harness.pods.pod import Pod
from harness.pods.platform_images import NOT_RUNNABLE, images_of
from harness.router_fleet import eventually
from platform_deploy.releases import releases_of

pytestmark = [pytest.mark.service, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
OVERRIDES = {
    # The hub is not reachable: the weights are a folder that the node has.
    "smollm2": ["--set", "weights.source=/models/source", "--set", "weights.cache.kind=hostPath"],
}


def rendered(environment: str, weights: Path) -> list[dict[str, Any]]:
    """Return the manifests of every release, each with its namespace."""
    found = []
    for release in releases_of(ROOT / "helm", environment, []):
        more = OVERRIDES.get(release.name, [])
        if more:
            more = [*more, "--set", f"weights.cache.hostPath={weights}"]
        done = subprocess.run(
            [tool("helm"), "template", *release.words(), *more],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for document in filter(None, yaml.safe_load_all(done.stdout)):
            document["metadata"].setdefault("namespace", release.namespace)
            found.append(document)
    return found


def runnable(document: dict[str, Any]) -> bool:
    """Whether an image of this machine stands behind every container."""
    if document["kind"] not in ("Deployment", "StatefulSet", "Pod"):
        return True
    spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
    return not any(one["image"].rpartition(":")[0] in NOT_RUNNABLE for one in spec["containers"])


def routes(folder: Path, *keys: str) -> str:
    """Return the route table of the Secret, as docs/deploying.md makes it."""
    (folder / "keys.yaml").write_text(yaml.safe_dump({"clients": {"tester": list(keys)}}))
    (folder / "keys.yaml").chmod(0o600)
    done = subprocess.run(
        [Path(sys.executable).parent / "edge-gateway", "routes", "--settings",
         ROOT / "services/edge-gateway/envoy/cluster.yaml", "--keys-file", folder / "keys.yaml",
         "--out", folder / "routes.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "routes.yaml").read_text()


class Platform:
    """The running pods by the name of their workload, and a client of the edge."""

    def __init__(self, kube: Cluster, documents: list[dict[str, Any]], folder: Path) -> None:
        self.kube = kube
        self.documents = documents
        self.folder = folder
        self.key = "sk-" + "a" * 40
        self.outside = kube.client("laptop", "default")
        self.edge = f"http://{kube.address('llm', 'edge-gateway')}"

    def pod(self, workload: str) -> Pod:
        (found,) = (pod for pod in self.kube.pods if pod.name == f"{workload}-0")
        return found

    def ask(self, path: str = "/v1/chat/completions", key: str | None = None, **body: Any) -> httpx.Response:
        """One request from outside the cluster's namespaces to the edge's Service."""
        message = [{"role": "user", "content": "Hi"}]
        sent = {"model": MODEL, "messages": message, "max_tokens": 5, **body}
        headers = {"authorization": f"Bearer {key or self.key}"}
        return self.outside.call(
            lambda: (
                httpx.get(self.edge + path, headers=headers, timeout=20)
                if path.endswith("models")
                else httpx.post(self.edge + path, json=sent, headers=headers, timeout=20)
            )
        )

    def reaches(self, name: str, namespace: str, ip: str, port: int, **labels: str) -> bool:
        """Whether a pod with these labels gets a connection."""
        client = self.kube.client(name, namespace, **labels)

        def connect() -> bool:
            try:
                socket.create_connection((ip, port), 1.0).close()
            except OSError:
                return False
            return True

        return client.call(connect)


def scraped(config: str, kube: Cluster) -> str:
    """Return prometheus.yml with the pods listed: Debian builds Prometheus without Kubernetes discovery.

    They are listed as discovery would: with the labels it finds on them, for the chart's own relabelling.
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


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Every pod of `kind` that an image here stands behind, ready."""
    folder = tmp_path_factory.mktemp("platform")
    folder.chmod(0o755)
    weights = folder / "weights"
    (weights / "source").mkdir(parents=True)
    (weights / "source" / "config.json").write_text("{}")
    for path in (weights, weights / "source"):
        path.chmod(0o777)
    documents = [one for one in rendered("kind", weights) if runnable(one)]
    with cluster(folder / "pods", images_of()) as kube:
        kube.secret("llm", "redis", password="a long password")
        made = Platform.__new__(Platform)
        made.key = "sk-" + "a" * 40
        kube.secret("llm", "edge-routes", **{"routes.yaml": routes(folder, made.key)})
        ours = [one for one in documents if one["metadata"]["namespace"] == "llm"]
        theirs = [one for one in documents if one["metadata"]["namespace"] != "llm"]
        later = [one for one in theirs if one["kind"] in ("Deployment", "StatefulSet")]
        kube.apply(*(one for one in theirs if one not in later))
        pods = kube.apply(*ours)
        kube.wait_ready(pods, 120)
        prometheus = kube.objects["observability"]["ConfigMap", "prometheus"]
        prometheus["data"]["prometheus.yml"] = scraped(prometheus["data"]["prometheus.yml"], kube)
        kube.wait_ready(kube.apply(*later), 120)
        yield Platform(kube, documents, folder)


def test_a_chat_completion_comes_through_all_pods(platform: Platform) -> None:
    answer = platform.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.headers["x-route-backend"] == platform.pod("smollm2").name
    assert platform.ask("/v1/models").json()["data"][0]["id"] == MODEL
    assert platform.ask(key="sk-wrong").status_code == 401
    assert platform.kube.events() == []
    assert platform.kube.api.refused == [], "the router's Role is enough"
