"""docs/deploying.md does what it says: its commands run, with a stand-in only for what needs a cluster or the internet.

helm renders what it would install, kubectl reads its command line and makes what it can offline; our own programs are
the real ones. Programs that would wait for somebody far away are asked whether they know the options.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.chart_fields import HELM
from harness.kubernetes_tools import tool
from platform_deploy.releases import releases_of

pytestmark = pytest.mark.service

ROOT = HELM.parent
PAGE = (ROOT / "docs" / "deploying.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = ROOT / ".venv" / "bin"
OURS = ("helm", "services", "scripts", "infrastructure", "docs", "versions.yaml", "Makefile")
KUBECTL = """#!/bin/sh
# Makes what kubectl can make alone; everything else must be understood and then find nobody.
echo "kubectl $*" >> "$CALLS"
case " $* " in *" create "*) exec {kubectl} "$@" --dry-run=client -o yaml ;; esac
said=$({kubectl} "$@" --server=http://127.0.0.1:9 2>&1) && exit 0
case "$said" in *unknown*|*"error: "*flag*) echo "$said" >&2; exit 1 ;; *refused*) exit 0 ;; esac
echo "$said" >&2; exit 1
"""
HELM_STANDS_IN = """#!/bin/sh
# Renders what would be installed; what asks a cluster is looked up in helm's own help.
echo "helm $*" >> "$CALLS"
what=$1; shift
case "$what" in
  install|upgrade) exec {helm} template "$@" ;;
  *) exec {helm} "$what" --help ;;
esac
"""
KNOWN_OPTIONS = """#!/bin/sh
# Far away: only whether the program knows every option it is given.
echo "{name} $*" >> "$CALLS"
help=$({real} --help 2>&1)
for word; do
  case "$word" in --*) case "$help" in *"${{word%%=*}}"*) ;; *) echo "{name} knows no $word" >&2; exit 1 ;; esac ;; esac
done
"""
NOTED = '#!/bin/sh\necho "{name} $*" >> "$CALLS"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout that commands may write into, with the programs that need a cluster replaced on the PATH."""
    for name in OURS:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / ".run" / "deploy").mkdir(parents=True)
    (tmp_path / ".run" / "deploy" / "key").write_text("sk-" + "k" * 40)
    (tmp_path / ".run" / "deploy" / "keys.yaml").write_text(
        "clients: {me: [sk-kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk]}\n"
    )
    (tmp_path / ".run" / "deploy" / "keys.yaml").chmod(0o600)
    weights = tmp_path / "mistral-7b-instruct-v0.2-awq"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    for name in ("tls.crt", "tls.key"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a", "-days", "1",
                   "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"]  # fmt: skip
        if not (tmp_path / name).exists():
            subprocess.run(command, capture_output=True, check=True, timeout=60)
    stand_ins = {
        "kubectl": KUBECTL.format(kubectl=tool("kubectl")),
        "helm": HELM_STANDS_IN.format(helm=tool("helm")),
        "router-service": KNOWN_OPTIONS.format(
            name="router-service", real=f"{PROGRAMS}/router-service explain"
        ),
        **{name: NOTED.format(name=name) for name in ("aws", "curl", "kind", "make")},
    }
    programs = tmp_path / "stand-ins"
    programs.mkdir()
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


OUR_SCRIPTS = sorted(set(re.findall(r"(?<![\w/])scripts/[a-z-]+", PAGE)))


def without_far_away(block: str) -> str:
    """The scripts that go to AWS, a registry or a cluster are tested by themselves (test_deploy.py and others)."""
    lines = block.replace("\\\n", " ").splitlines()
    kept = [
        line for line in lines if not re.match(r"(\w+=\S+ |OPENAI_API_KEY=.* )*(python3 )?scripts/", line)
    ]
    return "\n".join(line.replace('export PATH="$PWD/.venv/bin:$PATH"', "") for line in kept)


def run(folder: Path, block: str) -> "tuple[subprocess.CompletedProcess[str], list[str]]":
    calls = folder / "calls"
    environment = {
        **os.environ,
        "PATH": f"{folder}/stand-ins:{PROGRAMS}:{os.environ['PATH']}",
        "CALLS": str(calls),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", without_far_away(block) + "\nwait"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_commands_of_a_block_run(number: int, folder: Path) -> None:
    done, calls = run(folder, BLOCKS[number])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    for word in ("helm", "kubectl"):
        shown = len(re.findall(rf"(?:^|; do ){word} ", BLOCKS[number], re.MULTILINE))
        assert sum(call.startswith(f"{word} ") for call in calls) >= shown


def test_helm_renders_what_a_command_would_install(folder: Path) -> None:
    installs = [
        line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if "helm install" in line
    ]
    assert len(installs) >= 8
    for line in installs:
        chart = shlex.split(line)[3]
        assert (ROOT / chart / "Chart.yaml").is_file(), line
    done, _ = run(folder, "helm install edge helm/edge-gateway -n llm --set routesSecrets=a")
    assert done.returncode != 0, "a wrong value would be seen"
    done, _ = run(folder, "kubectl -n llm create secret generic a --from-litteral=b=c")
    assert done.returncode != 0, "a wrong option would be seen"
    done, _ = run(folder, "router-service explain A --link http://127.0.0.1:8000")
    assert done.returncode != 0, "and of ours too"


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    shellcheck = ROOT / ".venv-tools" / "bin" / "shellcheck"
    if not shellcheck.exists():
        pytest.fail("no .venv-tools: python3 scripts/install-dependencies tools")

    def found(text: str) -> str:
        (tmp_path / "block.sh").write_text(text)
        command = [shellcheck, "--shell=bash", "--severity=style", tmp_path / "block.sh"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    for block in BLOCKS:
        assert found(block) == ""
    assert "SC2086" in found("echo $unquoted\n"), "it would find something"


@pytest.mark.parametrize("script", OUR_SCRIPTS)
def test_a_script_that_the_page_names_is_there_and_knows_its_options(script: str) -> None:
    path = ROOT / script
    assert path.is_file()
    assert os.access(path, os.X_OK)
    lines = [
        line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if f"{script} " in line
    ]
    options = {
        word.partition("=")[0]
        for line in lines
        for word in line.split(" #")[0].split()
        if word.startswith("--")
    }
    if options:
        command = [sys.executable, path] if path.read_text().startswith("#!/usr/bin/env python") else [path]
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, timeout=60)
        if script in ("scripts/deploy", "scripts/undeploy"):
            assert done.returncode == 0, done.stderr
        assert options <= set(re.findall(r"--[a-z-]+", done.stdout + done.stderr)), options


def test_every_file_chart_and_environment_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"(?<![\w./-])(?:helm|services|docs|infrastructure)/[\w./-]+[\w]", PAGE))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    environments = set(re.findall(r"scripts/(?:deploy|undeploy|cluster-up|cluster-down) (\w+)", PAGE))
    assert environments <= {path.name for path in (HELM / "environments").iterdir()}


def test_charts_of_the_table_are_all_that_run_and_listen_where_it_says() -> None:
    table = PAGE[PAGE.index("## What is where") :]
    rows = re.findall(r"^\| ([a-z, -]+) \| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE)
    charts = {name for row in rows for name in row[0].split(", ")} - {"chart"}
    assert charts == {path.parent.name for path in HELM.glob("*/Chart.yaml")} - {"observability"}


def test_the_numbers_of_the_dry_run_are_those_of_dev(tmp_path: Path) -> None:
    values = tmp_path / "handed-over.yaml"
    values.write_text(
        yaml.safe_dump({"global": {"region": "r", "buckets": {"models": "m", "logs": "l", "traces": "t"}}})
    )
    releases = releases_of(HELM, "dev", [values])
    objects = 0
    for release in releases:
        command = [tool("helm"), "template", *release.words()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        objects += sum(1 for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one)
    assert f"{len(releases)} releases, {objects} objects" in PAGE


def test_costs_are_those_of_the_page_on_infrastructure() -> None:
    other = (ROOT / "docs" / "infrastructure.md").read_text()
    for environment in ("dev", "prod"):
        (cost,) = re.findall(rf"^\| {environment} \| ([\d.]+) \|", other, re.MULTILINE)
        assert re.search(rf"`scripts/cluster-up {environment}` \|[^|]*\| {cost} \|", PAGE)


def test_every_test_that_the_charts_readme_names_exists() -> None:
    text = (HELM / "README.md").read_text()
    named = re.findall(r"`((?:[\w/-]+/)?test_\w+\.py)::(test_\w+)`", text)
    assert len(set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE))) == 14
    for file, name in named:
        path = ROOT / file if "/" in file else HELM / "tests" / file
        assert f"def {name}(" in path.read_text(), f"{file}::{name}"
    files = {path.name for path in (HELM / "tests").glob("test_*.py")}
    assert files <= set(re.findall(r"test_\w+\.py", text)), "a file of tests without a line"
