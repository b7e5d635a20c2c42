"""The real vLLM in a pod of a restricted namespace, beside the simulated engines. Only with FULL=1.

CLUSTER_WEIGHTS is a folder on every node that user 65532 can write. Its subfolder ``source`` contains the weights that
scripts/convert-weights made.
"""

import json
import os
from collections.abc import Iterator

import pytest

from cluster.kubectl import Kubectl, run, wait_for
from cluster.platform import ROOT, Platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

RELEASE = "smollm2"
MODEL = "smollm2-135m-instruct"
START_SECONDS = 900.0


@pytest.fixture
def engine(platform: Platform, kubectl: Kubectl) -> Iterator[str]:
    """The engine's release, and a pool of the routers for it; the name of the release."""
    folder = os.environ.get("CLUSTER_WEIGHTS")
    if os.environ.get("FULL") != "1" or not folder:
        pytest.skip("FULL=1 with CLUSTER_WEIGHTS runs the real engine (tests/cluster/README.md)")
    for document in volume(folder):
        kubectl.apply(document)
    image = f"{platform.registry or 'llm-platform'}/inference-engine-cpu"
    chosen = {
        "model": MODEL,
        "backend": RELEASE,
        "image": {"repository": image},
        "weights": {"source": "/models/source", "cache": {"kind": "claim", "claim": RELEASE}},
        "needs": {"cpus": 0.5},
    }
    words = [f"--set-json={name}={json.dumps(value)}" for name, value in chosen.items()]
    chart = ROOT / "helm" / "inference-backend"
    run(platform.helm, "upgrade", "--install", RELEASE, chart, "-n", "llm", *words, *platform.values())
    discovered = {
        "endpoint_slices": {"service": RELEASE, "namespace": "llm"},
        "port": 8000, "health_port": 8001, "health_path": "/readyz",
    }  # fmt: skip
    pool = {"models": [MODEL], "discover": discovered}
    try:
        platform.upgrade("router", f"--set-json=config.pools.real={json.dumps(pool)}")
        yield RELEASE
    finally:
        platform.upgrade("router")
        run(platform.helm, "uninstall", RELEASE, "-n", "llm", "--wait", "--timeout", "4m", timeout=300)
        kubectl("delete", "pvc", RELEASE, "-n", "llm", "--wait=false")
        kubectl("delete", "pv", RELEASE, "--wait=false")


def volume(folder: str) -> list[dict[str, object]]:
    """Return a volume for a folder of the nodes and its claim; a restricted pod must not mount the folder itself."""
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "capacity": {"storage": "2Gi"},
        "hostPath": {"path": folder},
        "claimRef": {"name": RELEASE, "namespace": "llm"},
    }
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": RELEASE,
        "resources": {"requests": {"storage": "2Gi"}},
    }
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": RELEASE}, "spec": spec},
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": RELEASE, "namespace": "llm"}, "spec": claim,
        },
    ]  # fmt: skip


def test_the_real_engine_answers_through_edge_and_router(
    platform: Platform, kubectl: Kubectl, engine: str
) -> None:
    kubectl.rolled_out("llm", engine, seconds=START_SECONDS)
    body = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}

    def answer() -> dict[str, str] | None:
        with platform.edge() as client:
            response = client.post("/v1/completions", json=body)
        if response.status_code != 200:
            return None
        text = response.json()["choices"][0]["text"]
        return {"text": text, "id": response.headers["x-request-id"]}

    found = wait_for("the routers found the engine", answer, 120)
    print(found)
    assert "Paris" in found["text"]
    record = platform.explain(found["id"])
    assert (record["outcome"], record["pool"]) == ("ok", "real")
    assert record["chosen"].startswith(f"{engine}-")
    run(platform.helm, "test", engine, "-n", "llm", "--timeout", "90s", "--logs", timeout=150)
