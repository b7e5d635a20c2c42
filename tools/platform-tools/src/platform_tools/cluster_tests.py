"""`make test-cluster`: runs tests/cluster against the cluster of KUBECONFIG; without one it skips and reports it.

ARGS="-k killed"   for pytest      KEEP=1   leave the platform installed      SEED=7   repeat a run's random times
FULL=1             kill each part twice
"""

import os
import shlex
import subprocess

from platform_tools.checkout import PLATFORM_PYTHON, ROOT

REPORT = ROOT / ".run" / "test" / "cluster.xml"


def main(arguments: list[str]) -> int:
    """Run the suite; exit 0 if it passed or was skipped as a whole, else pytest's code."""
    if not os.environ.get("KUBECONFIG"):
        print(
            "make test-cluster: skipped, tests/cluster was not run: KUBECONFIG is not set (tests/cluster/README.md)"
        )
        return 0
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    command = [
        str(PLATFORM_PYTHON),
        "-m",
        "pytest",
        "-v",
        "-rs",
        "--durations=10",
        "-m",
        "cluster",
        f"--junitxml={REPORT}",
        "tests/cluster",
    ]
    words = [*shlex.split(os.environ.get("ARGS", "")), *arguments]
    return subprocess.run([*command, *words], cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
