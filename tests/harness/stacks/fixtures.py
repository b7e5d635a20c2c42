"""Fixtures of whole stacks, shared by all tests of a run: starting one costs seconds to a minute.

Each ends after the last module that uses it.
"""

from collections.abc import Iterator

import pytest

from harness.stacks.endings import until_last_user
from harness.stacks.local import Stack, running_stack
from harness.stacks.observed import Observed, observed


@pytest.fixture(scope="session")
def sim_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack on engine simulators. Its users leave it as they found it: every part ready."""
    with until_last_user(request, running_stack("sim", tmp_path_factory.mktemp("sim-stack"))) as stack:
        yield stack


@pytest.fixture(scope="session")
def vllm_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack on two real vLLM engines. Its users leave it as they found it: every part ready."""
    with until_last_user(request, running_stack("vllm", tmp_path_factory.mktemp("vllm-stack"))) as stack:
        yield stack


@pytest.fixture(scope="session")
def observed_stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    """A simulator stack whose alerts and rules run thirty times as fast and whose spans are kept, under mixed
    traffic. Its users leave it as they found it."""
    with until_last_user(request, observed(tmp_path_factory.mktemp("observed-stack"))) as platform:
        yield platform
