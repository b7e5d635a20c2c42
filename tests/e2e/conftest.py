"""The tests of the whole path run twice: on engine simulators, and on the real vLLM."""

import pytest

from harness.stacks.local import Stack


@pytest.fixture(
    params=[
        pytest.param("sim", marks=[pytest.mark.service, pytest.mark.timeout(300)]),
        pytest.param("vllm", marks=[pytest.mark.platform, pytest.mark.timeout(700)]),
    ]
)
def stack(request: pytest.FixtureRequest) -> Stack:
    """A running stack of each profile."""
    found: Stack = request.getfixturevalue(f"{request.param}_stack")
    return found
