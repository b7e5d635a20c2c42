"""`scripts/why-ttft`, `client-costs` and `render-dashboards`: hand over to the command of the service that answers."""

import os

from platform_tools.checkout import ROOT


def main(arguments: list[str]) -> int:
    """Become `observability`; does not return."""
    program = str(ROOT / ".venv" / "bin" / "observability")
    os.execv(program, [program, *arguments])
