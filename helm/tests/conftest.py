"""Images for the tests that start containers, built side by side before the first of them."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.pods import kernel
from harness.pods.platform_images import images_of

OURS = ("edge-gateway", "rate-limit-service", "router-service", "inference-backend", "inference-engine")


@pytest.fixture(scope="session")
def built_images() -> None:
    """Every image of ours that a pod here runs; one that cannot be built fails where it is asked for."""
    kernel.require()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(images_of(), f"llm-platform/{name}:0.1.0") for name in OURS]:
            done.result()
