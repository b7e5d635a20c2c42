"""Connects the launchers of the local stack to `commands`, with settings from environment variables."""

import os
import signal
import sys

from platform_tools.checkout import ROOT
from platform_tools.local_stack import commands
from platform_tools.local_stack.settings import BadRequest, load_settings

EXIT_BAD_INPUT = 2


def main(words: list[str]) -> int:
    """Run one command of :mod:`platform_tools.local_stack.commands` on the stack that the environment
    variables select.
    """
    command, arguments = words[0], words[1:]
    try:
        settings = load_settings(ROOT, os.environ)
    except BadRequest as error:
        print(f"make {command}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if command in ("logs", "status"):  # they only read: `make status | head` may close the output at any line
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
