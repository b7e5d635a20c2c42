"""The one command of the tools: `platform-tools NAME ...`, and what every launcher in scripts/ calls.

It imports only the standard library, and a command's module only to run it, because some commands run before
anything is installed.
"""

import ast
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from platform_tools.checkout import ROOT


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the module whose ``main(arguments)`` runs it, and the Python it needs.

    Args:
        module: the module below ``platform_tools``.
        first: arguments given to ``main`` before the user's.
        environment: the virtual environment it runs in, a folder of the checkout; None for the machine's own Python.
        exit_without: the exit code where that environment is missing.
        usage: the arguments it takes, for its help; None where the module parses its own command line.
    """

    module: str
    first: tuple[str, ...] = ()
    environment: str | None = ".venv"
    exit_without: int = 1
    usage: str | None = ""


COMMANDS: dict[str, Command] = {
    # local stack
    "start-stack": Command("local_stack.start", environment=None),
    "stop-stack": Command("local_stack.entry", ("down",), exit_without=0),
    "show-status": Command("local_stack.entry", ("status",), usage="[--json]"),
    "follow-logs": Command("local_stack.entry", ("logs",), usage="[--raw] [PART]"),
    "give-tour": Command("local_stack.entry", ("demo",)),
    "restart-engines": Command("local_stack.entry", ("restart",), usage="[backend-a] [backend-b]"),
    # the checkout
    "install-dependencies": Command("install", environment=None, usage="PART ..."),
    "run-tests": Command("tiers", environment=None),
    "test-cluster": Command("cluster_tests", usage="[PYTEST ARGUMENT ...]"),
    "check-code": Command("code_checks", environment=None),
    "run-measurement": Command("measurement", usage="bench | load | capacity"),
    "generate-all": Command("generate"),
    "draw-sentences": Command("sentences", usage=None),
    # images, charts, cluster
    "build-images": Command("images.build"),
    "bundle": Command("bundle", usage=None),
    "pin-images": Command("images.pin", usage="[IMAGE ...]"),
    "convert-weights": Command("models.convert_weights", environment=".venv-vllm", usage=None),
    "print-vllm-arguments": Command("models.print_vllm_arguments", environment=".venv-vllm"),
    "deploy": Command("deploy.main", ("deploy",), usage=None),
    "undeploy": Command("deploy.main", ("undeploy",), usage=None),
    "cluster-up": Command("cluster_lifecycle.main", ("cluster-up",), usage=None),
    "cluster-down": Command("cluster_lifecycle.main", ("cluster-down",), usage=None),
    "cost-report": Command("cluster_lifecycle.main", ("cost-report",), usage=None),
    "night-off": Command("cluster_lifecycle.main", ("night-off",), usage=None),
    "resume": Command("cluster_lifecycle.main", ("resume",), usage=None),
    # what observability answers
    "why-ttft": Command("questions", ("why-ttft",), usage=None),
    "client-costs": Command("questions", ("client-costs",), usage=None),
    "render-dashboards": Command("questions", ("pictures",), usage=None),
}


def main(name: str | None = None, arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; the default name is the first word of the command line."""
    words = sys.argv[1:] if arguments is None else arguments
    if name is None:
        name, words = (words[0], words[1:]) if words else ("--help", [])
    if name not in COMMANDS:
        known = "\n".join(f"  {each}" for each in COMMANDS)
        print(f"usage: platform-tools COMMAND ...\n\ncommands:\n{known}", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    command = COMMANDS[name]
    if {"-h", "--help"} & set(words) and (command.usage is not None or not _is_installed(command)):
        print(help_of(name))
        return 0
    if command.usage == "" and words:
        print(
            f"{name}: it takes no arguments, and was given {' '.join(words)}; see {name} --help",
            file=sys.stderr,
        )
        return 2
    if command.environment and sys.prefix != str(ROOT / command.environment):
        return _in_environment(name, command, words)
    module = importlib.import_module(f"platform_tools.{command.module}")
    return int(module.main([*command.first, *words]))


def help_of(name: str) -> str:
    """Return what a command does and takes, from the docstrings of its launcher and its module; imports neither."""
    command = COMMANDS[name]
    purpose = _docstring(ROOT / "scripts" / name)
    module = Path(__file__).parent.joinpath(*command.module.split("."))
    details = _docstring(module.with_suffix(".py")).partition("\n\n")[2]
    usage = f"usage: scripts/{name} {'...' if command.usage is None else command.usage}".rstrip()
    return "\n\n".join(part for part in (usage, purpose, details) if part)


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def _is_installed(command: Command) -> bool:
    return command.environment is None or (ROOT / command.environment / "bin" / "python").exists()


def _in_environment(name: str, command: Command, words: list[str]) -> int:  # noqa: RET503 (exec does not return)
    """Run the launcher again on the Python of its environment; does not return unless that is missing."""
    python = ROOT / str(command.environment) / "bin" / "python"
    if not python.exists():
        part = "vllm" if command.environment == ".venv-vllm" else "platform"
        print(
            f"{name}: {command.environment} is not installed in this checkout; start with `make up`, "
            f"or with `scripts/install-dependencies {part}`",
            file=sys.stderr,
        )
        return command.exit_without
    os.execv(python, [str(python), str(ROOT / "scripts" / name), *words])
