"""`make generate`: runs every owner's generator (generators/NN-name, in order of name)."""

import os
import subprocess
import sys
from pathlib import Path

from platform_tools.checkout import ROOT

GENERATORS = Path(__file__).with_name("generators")


def main(arguments: list[str]) -> int:
    failed = []
    for generator in sorted(GENERATORS.iterdir()):
        if not os.access(generator, os.X_OK) or generator.is_dir():
            continue
        print(f"  {generator.name}", flush=True)
        environment = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
        if subprocess.run([generator], cwd=ROOT, env=environment, check=False).returncode:
            failed.append(generator.name)
    for name in failed:
        print(f"make generate: {name} failed", file=sys.stderr)
    return 1 if failed else 0
