"""One stack for all attacks. Every attack leaves it as it found it."""

from collections.abc import Iterator

import pytest

from harness.stacks.attacked import Attacked, attacked_stack
from harness.stacks.endings import until_last_user


@pytest.fixture(scope="session")
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """The running stack; it ends after the last module that uses it."""
    with until_last_user(request, attacked_stack(tmp_path_factory.mktemp("attacked"))) as stack:
        yield stack
