"""The commands of docs/infrastructure.md run as documented; only AWS, terraform and the cluster are fakes.

The real kubectl writes the context of the tunnel, and the scripts accept it.
"""

import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from harness.judges.aws_commands import faults
from harness.kubernetes.tools import tool
from platform_tools.kube_context import eks_context, kubeconfig

pytestmark = pytest.mark.programs

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "infrastructure.md").read_text()
BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(r"^ *```bash\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
]
ARN = "arn:aws:eks:us-east-1:123456789012:cluster/llm-dev"
ENDPOINT = "https://0123.gr7.us-east-1.eks.amazonaws.com"
RECORDS = """#!/usr/bin/env python3
import json, os, pathlib, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]), file=calls)
"""
# Writes what `aws eks update-kubeconfig` writes.
AWS = f"""{RECORDS}
words = sys.argv[1:]
if words[:2] == ["eks", "describe-cluster"]:
    print({{"cluster.arn": "{ARN}", "cluster.endpoint": "{ENDPOINT}"}}[words[words.index("--query") + 1]])
elif words[:2] == ["ec2", "describe-instances"]:
    print("i-0123")
elif words[:2] == ["eks", "update-kubeconfig"]:
    entry = {{"apiVersion": "v1", "kind": "Config", "current-context": "{ARN}",
        "clusters": [{{"name": "{ARN}", "cluster": {{"server": "{ENDPOINT}"}}}}],
        "contexts": [{{"name": "{ARN}", "context": {{"cluster": "{ARN}", "user": "{ARN}"}}}}],
        "users": [{{"name": "{ARN}", "user": {{}}}}]}}
    pathlib.Path(os.environ["KUBECONFIG"]).write_text(json.dumps(entry))
"""
KUBECTL = """{records}
if sys.argv[1] == "config":
    os.execv({kubectl!r}, ["kubectl", *sys.argv[1:]])
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A writable checkout, with fakes on PATH and in place of the scripts that need AWS or a cluster."""
    shutil.copytree(
        ROOT / "infrastructure", tmp_path / "infrastructure", ignore=shutil.ignore_patterns("tests")
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "cost-report").symlink_to(ROOT / "scripts" / "cost-report")
    fakes = {
        "programs/aws": AWS,
        "programs/kubectl": KUBECTL.format(records=RECORDS, kubectl=str(tool("kubectl"))),
        **{f"programs/{name}": RECORDS for name in ("terraform", "make")},
        **{f"scripts/{name}": RECORDS for name in ("cluster-up", "cluster-down", "deploy", "undeploy")},
        ".venv/bin/pytest": RECORDS,
    }
    for name, text in fakes.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def run(checkout: Path, block: str) -> tuple[str, list[list[str]]]:
    """Run a block with values for its ``...``; return its output and the calls of the fakes."""
    calls = checkout / "calls"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace("=...", "=example")],
        cwd=checkout, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PATH": f"{checkout}/programs:{os.environ['PATH']}", "CALLS": str(calls),
             "KUBECONFIG": str(checkout / "kubeconfig")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, [json.loads(line) for line in calls.read_text().splitlines()]


def test_every_block_runs_in_order_and_the_scripts_accept_the_tunnels_context(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(BLOCKS) >= 12
    printed = ""
    calls: list[list[str]] = []
    for block in BLOCKS:
        output, calls = run(checkout, block)
        printed += output
    assert re.search(r"USD an hour, [\d,]+ USD in a month", printed)
    state = (checkout / "infrastructure/account/backend_override.tf").read_text()
    assert re.search(r'bucket += "example"', state)
    assert (checkout / "infrastructure/environments/dev.local.tfvars").is_file()
    sessions = [call for call in calls if call[1:3] == ["ssm", "start-session"]]
    assert [json.loads(call[-1])["host"] for call in sessions] == [[ENDPOINT.removeprefix("https://")]]
    monkeypatch.setenv("KUBECONFIG", str(checkout / "kubeconfig"))
    assert eks_context(kubeconfig([str(tool("kubectl"))]), ARN, ENDPOINT) == ARN


def test_the_aws_cli_knows_every_command_option_and_field(checkout: Path) -> None:
    for block in BLOCKS:
        _, calls = run(checkout, block)
    found = [call[1:] for call in calls if call[0] == "aws"]
    assert len(found) >= 10
    assert [fault for words in found for fault in faults(words)] == []
    assert faults(["eks", "describe-cluster", "--cluster-name", "a", "--query", "cluster.endpont"]) == [
        "eks describe-cluster has no option --cluster-name",
        "eks describe-cluster returns no endpont",
    ]
    assert faults(["ssm", "begin-session"]) == ["ssm has no operation begin-session"]


def test_files_and_scripts_that_the_page_names_exist() -> None:
    named = set(re.findall(r"(?<![\w./-])(?:infrastructure|helm|scripts)/[\w./-]*\w", PAGE))
    written = {"infrastructure/environments/dev.tfstate", "infrastructure/environments/dev.local.tfvars",
               "infrastructure/environments/backend_override.tf"}  # fmt: skip
    assert len(named) > 12
    assert [name for name in sorted(named - written) if not (ROOT / name).exists()] == []
