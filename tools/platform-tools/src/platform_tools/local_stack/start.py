"""`make up`: checks the machine, installs what is missing, then starts the stack and shows it."""

import os
import signal
import sys
import time
from pathlib import Path

from platform_tools.checkout import ROOT
from platform_tools.local_stack.console import Console
from platform_tools.local_stack.installation import CannotInstall, Installer
from platform_tools.local_stack.leftovers import end_leftovers
from platform_tools.local_stack.parts import configured_parts
from platform_tools.local_stack.preflight import shortages, taken_ports
from platform_tools.local_stack.settings import BadRequest, Settings, load_settings
from platform_tools.local_stack.supervision import is_listening


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def install(settings: Settings) -> None:
    """Check the machine first, so that a too small machine is reported before anything is installed."""
    if not is_listening(settings.supervisor_socket):
        end_leftovers(settings.run_dir)
        if problems := [*taken_ports(configured_parts(settings)), *shortages(settings)]:
            raise CannotInstall("\n".join(problems))
    wanted = ["packages:up", "platform"] + (["vllm", "weights"] if settings.profile == "vllm" else [])
    Installer(ROOT, Console()).install(wanted)


def main(arguments: list[str]) -> int:
    # Without bytecode every start would compile every part, which takes seconds on a small machine.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        settings = load_settings(ROOT, os.environ)
    except BadRequest as error:
        print(f"make up: {error}", file=sys.stderr)
        return 2
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    in_environment = Path(sys.prefix) == ROOT / ".venv"
    if not in_environment:
        try:
            print(f"make up PROFILE={settings.profile}", flush=True)
            install(settings)
        except CannotInstall as error:
            print(f"\nmake up: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted; nothing was started", file=sys.stderr)
            return 130
        python = str(settings.platform_bin / "python")
        os.environ["STACK_INSTALL_SECONDS"] = f"{time.monotonic() - began:.3f}"
        os.execv(python, [python, str(ROOT / "scripts" / "start-stack"), *arguments])
    from platform_tools.local_stack import commands

    return commands.up(settings, seconds_before=float(os.environ.pop("STACK_INSTALL_SECONDS", "0")))
