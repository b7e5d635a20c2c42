"""How a script of the local stack gets into the platform's environment and to its command."""

import os
import signal
import sys
from pathlib import Path

from local_stack.settings import BadRequest, load_settings

ROOT = Path(__file__).resolve().parent.parent.parent
EXIT_BAD_INPUT = 2


def run(command: str, arguments: list[str]) -> int:
    """Run one command of :mod:`local_stack.commands` on the stack the environment names."""
    python = ROOT / ".venv" / "bin" / "python"
    if Path(sys.prefix) != ROOT / ".venv":
        if not python.exists():
            print(
                "nothing is installed in this checkout, so nothing runs; start with: make up", file=sys.stderr
            )
            return 0 if command == "down" else 1
        os.execv(python, [str(python), *sys.argv])
    from local_stack import commands

    try:
        settings = load_settings(ROOT, os.environ)
    except BadRequest as error:
        print(f"make {command}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if command in ("logs", "status"):  # they only read: `make status | head` may end them at any line
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if command == "logs":
        part = next((argument for argument in arguments if not argument.startswith("-")), None)
        return commands.logs(settings, raw="--raw" in arguments, part=part or os.environ.get("PART"))
    if command == "status" and "--json" in arguments:
        print(commands.as_json(settings))
        return 0
    if command == "restart":
        return commands.restart(settings, arguments)
    simple = {"down": commands.down, "status": commands.status, "demo": commands.demo}
    return simple[command](settings)
