"""Programs outside the lock files, such as terraform: a missing program skips a test, or fails it with STRICT=1."""

import os
import shutil

import pytest


def require(program: str, remedy: str) -> str:
    """Return the path of a program on PATH.

    Without it the test is skipped, and the reason names the program. With STRICT=1 it fails, unless
    ALLOW_MISSING lists the program.
    """
    found = shutil.which(program)
    if found:
        return found
    allowed = os.environ.get("ALLOW_MISSING", "").replace(",", " ").split()
    if os.environ.get("STRICT") == "1" and program not in allowed:
        pytest.fail(f"{program} is not on PATH and STRICT=1 allows no missing program; {remedy}")
    pytest.skip(f"{program} is not on PATH; {remedy}")
