"""The benchmark's backend and load generator, compiled from `native/`. Runs neither."""

import shutil
import subprocess
import sys
from pathlib import Path

NATIVE = Path(__file__).resolve().parent / "native"


def compile_programs(folder: Path) -> None:
    """Compile `backend` and `loadgen` into ``folder``.

    Raises:
        SystemExit: the machine has no C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        sys.exit("make bench needs a C compiler for its load generator: apt-get install gcc libc6-dev")
    for name in ("backend", "loadgen"):
        source = NATIVE / f"{name}.c"
        subprocess.run([compiler, "-O2", "-o", str(folder / name), str(source), "-lm"], check=True)
