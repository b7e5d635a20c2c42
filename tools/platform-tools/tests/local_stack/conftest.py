"""Settings of a stack that is never started."""

from collections.abc import Callable
from pathlib import Path

import pytest

from platform_tools.local_stack.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Make settings from variables, with a run folder for each test."""

    def make(**environment: str) -> Settings:
        return load_settings(ROOT, {"RUN_DIR": str(tmp_path / "run"), **environment})

    return make
