"""Chooses and installs the build of torch that vLLM's CPU engine runs on (docs/adr/0006).

It runs in two places: imported by the installer, and as a program in the CPU engine's image. It imports only
the standard library.

    python torch_build.py vllm-torch.txt      (TORCH_INDEX_URL names one index and excludes the others)
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE_SECONDS = 4  # seconds for each step of the connection to PyTorch's index
CPU_SIZE = "about 0.2 GB to download, 0.7 GB on disk"
CUDA_SIZE = "about 3 GB to download, 5 GB on disk"
MARKER = ".torch-build"

Pip = Callable[[Sequence[str], Mapping[str, str]], str | None]
"""Runs pip with arguments and extra environment; returns None, or the output of a failed run."""


class NoTorch(Exception):
    """No source has a build that fits; the message lists the sources and the remedy."""


@dataclass(frozen=True)
class Source:
    """One index to try, with the build that is wanted from it."""

    requirement: str
    where: str
    size: str
    index: str | None = None  # None: the indexes that pip is configured with
    options: tuple[str, ...] = ("--no-deps",)
    probe: bool = False  # the index may be unreachable, so probe it with a short timeout first

    @property
    def environment(self) -> dict[str, str]:
        # Through the environment, because a URL may contain a password and command lines are logged.
        return {"PIP_INDEX_URL": self.index} if self.index else {}

    def __str__(self) -> str:
        return f"{self.requirement} from {self.where} ({self.size})"


def sources(pin: str, index: str | None) -> list[Source]:
    """Return the sources in the order to try them.

    Args:
        pin: ``torch==VERSION+cpu``.
        index: the value of TORCH_INDEX_URL, or None.
    """
    if index:
        return [Source(pin, f"TORCH_INDEX_URL={without_password(index)}", CPU_SIZE, index)]
    return [
        Source(pin, "pip's configured index", CPU_SIZE),
        Source(pin, f"PyTorch's index {PYTORCH_INDEX}", CPU_SIZE, PYTORCH_INDEX, probe=True),
        Source(
            pin.removesuffix("+cpu"), "pip's configured index, with its dependencies", CUDA_SIZE, options=()
        ),
    ]


def install_torch(pin: str, index: str | None, pip: Pip, say: Callable[[str], None]) -> Source:
    """Install torch from the first source that has it and return that source.

    Raises:
        NoTorch: no source has it, or the disk is full.
    """
    failures = []
    candidates = sources(pin, index)
    for number, source in enumerate(candidates, 1):
        say(f"torch, source {number} of {len(candidates)}: {source}")
        failure = _query(source, pip) if source.probe else None
        if failure is None:
            failure = pip(["install", *source.options, source.requirement], source.environment)
        if failure is None:
            return source
        reason = _reason(failure)
        say(f"torch, source {number} of {len(candidates)}: {reason}")
        failures.append(f"  {source}: {reason}")
        if "No space left on device" in failure:
            break
    remedy = (
        "Correct or unset TORCH_INDEX_URL"
        if index
        else f"Name an index of CPU wheels, for example TORCH_INDEX_URL={PYTORCH_INDEX} make up"
    )
    raise NoTorch(
        "torch could not be installed:\n"
        + "\n".join(failures)
        + f"\n{remedy}, or run the stack on the engine simulator, which needs no vLLM:  make up PROFILE=sim"
    )


def _query(source: Source, pip: Pip) -> str | None:
    """Return why pip cannot use the index, tried with pip itself because of its proxies and certificates."""
    # -vv: pip names a connection that failed at this level only.
    patience = ["--timeout", str(PATIENCE_SECONDS), "--retries", "0", "-vv"]
    return pip(["index", "versions", "torch", *patience], source.environment)


def _reason(failure: str) -> str:
    lines = [line.strip() for line in failure.splitlines() if line.strip()]
    for sign, reason in (
        ("No space left on device", "the disk is full"),
        ("connection error", "the index cannot be reached"),
        ("connection broken", "the index cannot be reached"),
        ("confirming the ssl certificate", "the index's certificate is not trusted"),
        ("No matching distribution", "pip finds no such build there"),
    ):
        if sign in failure:
            return reason
    errors = [line for line in lines if line.startswith("ERROR")]
    return f"pip failed: {(errors or lines or ['no output'])[-1]}"


def without_password(url: str) -> str:
    """Return the URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def write_marker(venv: Path, source: Source) -> None:
    """Record in the environment which build it holds and from which kind of source."""
    (venv / MARKER).write_text(f"{source.requirement} {_fingerprint(source.index)}\n")


def holds_torch(venv: Path, pin: str, index: str | None) -> bool:
    """Return whether the environment has a complete torch of this version, from ``index`` if given."""
    try:
        requirement, _, fingerprint = (venv / MARKER).read_text().strip().partition(" ")
    except OSError:
        return False
    if requirement not in {source.requirement for source in sources(pin, None)}:
        return False
    return not index or fingerprint == _fingerprint(index)


def _fingerprint(index: str | None) -> str:
    # A digest, because the URL may contain a password.
    return hashlib.sha256(index.encode()).hexdigest() if index else "pip"


def pin_of(file: Path) -> str:
    """Return the pin of a one-line requirements file."""
    return next(line for line in file.read_text().splitlines() if line and not line.startswith("#"))


def _own_pip(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    return done.stdout if done.returncode else None


def main() -> int:
    """Install torch into the environment of this Python."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if "-h" in sys.argv or "--help" in sys.argv else 2
    try:
        install_torch(
            pin_of(Path(sys.argv[1])),
            os.environ.get("TORCH_INDEX_URL") or None,
            _own_pip,
            lambda line: print(line, flush=True),
        )
    except NoTorch as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
