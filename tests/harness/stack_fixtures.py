"""Fixtures of whole stacks, shared by all tests of a run: starting one costs seconds to a minute."""

from collections.abc import Iterator

import pytest

from harness.observed import Observed, observed
from harness.stacks import Stack, running_stack


@pytest.fixture(scope="session")
def sim_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack on engine simulators. Its users leave it as they found it: every part ready."""
    with running_stack("sim", tmp_path_factory.mktemp("sim-stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def vllm_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack on two real vLLM engines. Its users leave it as they found it: every part ready."""
    with running_stack("vllm", tmp_path_factory.mktemp("vllm-stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def observed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A simulator stack whose alerts and rules run thirty times as fast and whose spans are kept, after half a
    minute of mixed traffic. Its users leave it as they found it."""
    with observed(tmp_path_factory.mktemp("observed-stack")) as platform:
        yield platform
