"""One installation for the whole suite. Without KUBECONFIG every test is skipped, and the reason says so."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import load
from cluster.kubectl import Kubectl
from cluster.platform import Platform, namespaces
from harness.kubernetes.tools import tool

LAST = "test_undeploy"
READY_SECONDS = 60.0
"""Seconds until a busy API server must be ready."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests that remove the platform to the end."""
    items.sort(key=lambda item: item.path.stem == LAST and item.path.parent == Path(__file__).parent)


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set: tests/cluster needs a cluster (tests/cluster/README.md)")
    found = Kubectl(Path(os.environ.get("KUBECTL") or tool("kubectl")))
    deadline = time.monotonic() + READY_SECONDS
    while (problem := unready(found)) and time.monotonic() < deadline:
        time.sleep(1)
    if problem:
        pytest.skip(f"no cluster answers at {os.environ['KUBECONFIG']}: {problem[-200:]}")
    return found


def unready(kubectl: Kubectl) -> str:
    """Return why the API server is not ready, "" once it is."""
    words = [str(kubectl.program), "get", "--raw", "/readyz"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return (done.stderr.strip() or "no answer") if done.returncode else ""


@pytest.fixture(scope="session")
def platform(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The environment `sim`, installed by scripts/deploy; removed at the end unless KEEP is set."""
    helm = Path(os.environ.get("HELM") or tool("helm"))
    platform = Platform(kubectl, helm, tmp_path_factory.mktemp("cluster"), os.environ.get("REGISTRY", ""))
    platform.prepare()
    if not os.environ.get("REUSE"):
        platform.printed = platform.deploy()
        platform.whole()
    yield platform
    if not os.environ.get("KEEP"):
        platform.deploy("undeploy")
        for namespace in (*namespaces(), load.NAMESPACE):
            kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


@pytest.fixture
def draws() -> random.Random:
    """Random source of times and choices; the seed is printed, and SEED sets it."""
    seed = int(os.environ.get("SEED") or random.randrange(10_000))
    print(f"\nSEED={seed}")
    return random.Random(seed)
