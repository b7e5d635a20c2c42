"""Installing stops before a download that would be wrong, and does nothing where nothing is to do."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack.console import Console
from local_stack.installation import CannotInstall, Installer, _Stamp, has_cpu_torch

ROOT = Path(__file__).resolve().parents[2]


class CudaIndex(http.server.BaseHTTPRequestHandler):
    """A package index that has torch only as the public one does: without a CPU build."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        page = b'<a href="/files/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl">torch</a>'
        found = self.path == "/simple/torch/"
        self.send_response(200 if found else 404)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(page if found else b"")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def cuda_index() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (CudaIndex,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple", handler.asked  # type: ignore[attr-defined]
        server.shutdown()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the lock files and nothing installed."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "requirements", root / "requirements")
    return root


def test_a_cuda_torch_stops_the_installation_before_any_download(
    checkout: Path, cuda_index: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = cuda_index
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "TORCH_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(CannotInstall) as caught:
        Installer(checkout, Console()).install(["vllm"])
    assert "TORCH_INDEX_URL=" in str(caught.value)
    assert "make up PROFILE=sim" in str(caught.value)
    assert "/simple/torch/" in asked
    assert not [path for path in asked if path.startswith("/files/")]
    assert not has_cpu_torch(checkout / ".venv-vllm")


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


@pytest.mark.parametrize(
    ("installed", "is_cpu"),
    [
        (["torch-2.13.0+cpu"], True),
        (["torch-2.13.0"], False),
        ([], False),
        (["torchvision-0.28.0+cpu"], False),
    ],
)
def test_only_a_cpu_build_counts_as_torch(tmp_path: Path, installed: list[str], is_cpu: bool) -> None:
    for name in installed:
        (tmp_path / f"lib/python3.11/site-packages/{name}.dist-info").mkdir(parents=True)
    assert has_cpu_torch(tmp_path) is is_cpu


def test_a_user_who_may_not_install_packages_is_told_the_command(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "requirements" / "debian-packages.txt").write_text("[up]\nno-such-package-of-debian\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotInstall) as caught:
        Installer(checkout, Console()).install(["packages:up"])
    assert "apt-get install --no-install-recommends no-such-package-of-debian" in str(caught.value)


def test_the_installer_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "import local_stack.installation, local_stack.preflight, local_stack.parts, local_stack.supervision\n"
        "import local_stack.settings, local_stack.leftovers\n"
    )
    # -S leaves site-packages out, so that any import from there fails.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
