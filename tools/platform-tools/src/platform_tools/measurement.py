"""`make bench`, `make load` and `make capacity`: hand over to the command of load-testing/."""

import os
import sys

from platform_tools.checkout import PLATFORM_PYTHON, ROOT
from platform_tools.local_stack.console import Console
from platform_tools.local_stack.installation import CannotInstall, Installer

COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bench": ("bench", ()),
    "load": ("run", ("WORKLOAD", "RATE", "DURATION", "TARGET")),
    "capacity": ("capacity", ("WORKLOAD", "TARGET")),
}
"""Each target's command, and the variables that become its options."""


def main(arguments: list[str]) -> int:  # noqa: RET503 (exec does not return)
    """Replace this process by the measurement; return 1 if its dependencies cannot be installed, 2 for an
    unknown target.
    """
    which = arguments[0] if arguments else ""
    if which not in COMMANDS:
        print(f'run-measurement: "{which}" is not one of {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    if which == "bench":
        try:
            Installer(ROOT, Console()).install(["bench", "packages:bench"])
        except CannotInstall as error:
            print(f"\nmake bench: {error}", file=sys.stderr)
            return 1
    command, variables = COMMANDS[which]
    options = [
        word
        for variable in variables
        if os.environ.get(variable)
        for word in (f"--{variable.lower()}", os.environ[variable])
    ]
    os.chdir(ROOT)
    os.execv(PLATFORM_PYTHON, [str(PLATFORM_PYTHON), "-m", "load_testing.main", command, *options])
