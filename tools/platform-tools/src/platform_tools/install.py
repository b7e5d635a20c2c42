"""Installs dependencies of the repository at their locked versions; skips what is already installed.

scripts/install-dependencies platform vllm weights tools bench packages:up packages:test packages:bench
"""

import signal
import sys

from platform_tools.checkout import ROOT
from platform_tools.local_stack.console import Console
from platform_tools.local_stack.installation import CannotInstall, Installer

KNOWN = (
    "platform",
    "vllm",
    "weights",
    "tools",
    "bench",
    "packages:up",
    "packages:test",
    "packages:bench",
    "packages:generate",
)


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(wanted: list[str]) -> int:
    unknown = [name for name in wanted if name not in KNOWN]
    if unknown or not wanted:
        print(f"install-dependencies: give some of: {' '.join(KNOWN)}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        Installer(ROOT, Console()).install(wanted)
    except CannotInstall as error:
        print(f"\ninstall-dependencies: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0
