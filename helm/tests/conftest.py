"""Images for the tests that start containers, and a cluster for the tests of `scripts/deploy`."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.kubernetes.deploy_script import Script, whole_cluster
from harness.kubernetes.fake_api_server import FakeKubernetes
from podrunner import kernel
from podrunner.platform_images import images_of

OURS = ("edge-gateway", "rate-limit-service", "router-service", "inference-backend", "inference-engine")


@pytest.fixture(scope="session")
def built_images() -> None:
    """Return a function that gets one of our images; a failed build raises there."""
    kernel.require()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(images_of(), f"llm-platform/{name}:0.1.0") for name in OURS]:
            done.result()


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    """Run a fake cluster with every object that `deploy` requires."""
    with whole_cluster() as state:
        yield state


@pytest.fixture
def script(tmp_path: Path, cluster: FakeKubernetes) -> Script:
    return Script(tmp_path, cluster)
