"""Settings of a stack that is only looked at, never started."""

from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Make settings from variables; the run folder is the test's own."""

    def make(**environment: str) -> Settings:
        return load_settings(ROOT, {"RUN_DIR": str(tmp_path / "run"), **environment})

    return make
