"""A container's first process can be ended from its first import on. Needs root for a PID namespace."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="PID namespaces need root on Linux"
)
PACKAGES = ["router_service", "edge_gateway", "rate_limit_service", "backend_agent", "engine_simulator"]
SCRIPT = """
import os, signal
assert os.getpid() == 1
{imports}
os.kill(1, signal.SIGTERM)
print("still alive")
"""


def as_first_process(imports: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the first process of a PID namespace; it sends SIGTERM to itself after ``imports``."""
    words = ["unshare", "--fork", "--pid", sys.executable, "-c", SCRIPT.format(imports=imports)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_the_kernel_discards_sigterm_to_a_first_process_without_a_handler() -> None:
    assert as_first_process("").stdout == "still alive\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_sigterm_ends_a_service_that_is_still_importing(package: str) -> None:
    done = as_first_process(f"import {package}")
    assert (done.stdout, done.returncode) == ("", 128 + 15), done.stderr
