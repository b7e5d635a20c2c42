"""The commands of docs/deploying.md run as documented; programs that need a cluster or the internet are fakes.

helm renders instead of installing, kubectl parses its command line and creates objects offline; our own
programs are real. Programs that need a remote service only check that the options exist.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.judges import aws_commands
from harness.kubernetes.chart_fields import CHARTS, HELM
from harness.kubernetes.tools import tool
from platform_tools.deploy.releases import releases_of

pytestmark = pytest.mark.programs

ROOT = HELM.parent
PAGE = (ROOT / "docs" / "deploying.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = ROOT / ".venv" / "bin"
OURS = ("helm", "services", "scripts", "infrastructure", "docs", "versions.yaml", "Makefile")
KUBECTL = """#!/bin/sh
# Creates what kubectl can create offline; every other command must parse and then fail to connect.
echo "kubectl $*" >> "$CALLS"
case " $* " in *" create "*) exec {kubectl} "$@" --dry-run=client -o yaml ;; esac
said=$({kubectl} "$@" --server=http://127.0.0.1:9 2>&1) && exit 0
case "$said" in *unknown*|*"error: "*flag*) echo "$said" >&2; exit 1 ;; *refused*) exit 0 ;; esac
echo "$said" >&2; exit 1
"""
HELM_STANDS_IN = """#!/bin/sh
# Renders instead of installing; commands that need a cluster only print their help.
echo "helm $*" >> "$CALLS"
what=$1; shift
case "$what" in
  install|upgrade) exec {helm} template "$@" ;;
  *) exec {helm} "$what" --help ;;
esac
"""
KNOWN_OPTIONS = """#!/bin/sh
# Needs a remote service: only check that the program has every given option.
echo "{name} $*" >> "$CALLS"
help=$({real} --help 2>&1)
for word; do
  case "$word" in --*) case "$help" in *"${{word%%=*}}"*) ;; *) echo "{name} has no option $word" >&2; exit 1 ;; esac ;; esac
done
"""
REGISTRY = "registry.example/llm-platform"
NOTED = '#!/bin/sh\necho "{name} $*" >> "$CALLS"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable checkout, with fakes on PATH for the programs that need a cluster."""
    for name in OURS:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / ".run" / "deploy").mkdir(parents=True)
    (tmp_path / ".run" / "deploy" / "key").write_text("sk-" + "k" * 40)
    (tmp_path / ".run" / "deploy" / "keys.yaml").write_text(
        "clients: {me: [sk-kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk]}\n"
    )
    (tmp_path / ".run" / "deploy" / "keys.yaml").chmod(0o600)
    (tmp_path / ".run" / "cluster").mkdir()
    # As yaml.safe_dump of scripts/cluster-up writes it; the page reads it with sed.
    handed_over = {
        "global": {"registry": REGISTRY, "region": "eu-central-1", "buckets": {"models": "our-models"}}
    }
    (tmp_path / ".run" / "cluster" / "dev.values.yaml").write_text(yaml.safe_dump(handed_over))
    for model in ("mistral-7b-instruct-v0.2-awq", "llama-3.1-8b-instruct-awq"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text("{}")
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
        **{name: NOTED.format(name=name) for name in ("aws", "curl", "docker", "hf", "kind", "make")},
    }
    programs = tmp_path / "stand-ins"
    programs.mkdir()
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


OUR_SCRIPTS = sorted(set(re.findall(r"(?<![\w/])scripts/[a-z-]+", PAGE)))


def without_far_away(block: str) -> str:
    """Scripts that use AWS, a registry or a cluster have separate tests (test_deploy.py and others)."""
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
    aws = [shlex.split(call)[1:] for call in calls if call.startswith("aws ")]
    assert [fault for words in aws for fault in aws_commands.faults(words)] == []


def test_helm_renders_what_a_command_would_install(folder: Path) -> None:
    installs = [
        line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if "helm install" in line
    ]
    assert len(installs) >= 8
    for line in installs:
        chart = shlex.split(line)[3]
        assert (ROOT / chart / "Chart.yaml").is_file(), line
    done, _ = run(folder, "helm install edge helm/edge-gateway -n llm --set routesSecrets=a")
    assert done.returncode != 0, "a wrong value is found"
    done, _ = run(folder, "kubectl -n llm create secret generic a --from-litteral=b=c")
    assert done.returncode != 0, "a wrong option is found"
    done, _ = run(folder, "router-service explain A --link http://127.0.0.1:8000")
    assert done.returncode != 0, "also one of our programs"


def test_no_command_of_the_page_takes_our_images_from_docker_hub(folder: Path) -> None:
    """Without a registry an image is `llm-platform/NAME`, which a container runtime completes with docker.io."""
    blocks = [block for block in BLOCKS if re.search("^helm (install|upgrade) ", block, re.MULTILINE)]
    images: set[str] = set()
    for block in blocks:
        done, _ = run(folder, block)
        assert done.returncode == 0, done.stderr
        images |= set(re.findall(r"image: \"?([^\s\"]+)", done.stdout))
    assert any(image.startswith(f"{REGISTRY}/") for image in images)
    assert {image for image in images if image.startswith("llm-platform/")} == set()


def test_weights_of_every_gpu_model_go_from_their_repository_to_the_bucket(folder: Path) -> None:
    (block,) = (block for block in BLOCKS if "hf download" in block)
    done, calls = run(folder, block)
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "services/inference-backend/models").glob("*.yaml"):
        model = yaml.safe_load(path.read_text())
        if "repository" not in model:
            continue
        (download,) = (call for call in calls if call.startswith(f"hf download {model['repository']} "))
        assert f"--local-dir {path.stem}" in download
        assert re.fullmatch("[0-9a-f]{40}", model["revision"]), path.name
        assert f"--revision {model['revision']} " in f"{download} "
        assert f"aws s3 sync {path.stem} s3://our-models/{path.stem}" in calls
        assert "config.json" in (folder / path.stem / "SHA256SUMS").read_text()


def test_images_go_to_the_registry_of_the_values_file_with_the_gpu_engine(folder: Path) -> None:
    (block,) = (block for block in BLOCKS if "ecr get-login-password" in block)
    (folder / "stand-ins" / "make").write_text('#!/bin/sh\necho "make $* $REGISTRY $GPU $TAG" >> "$CALLS"\n')
    lines = [line for line in block.splitlines() if "scripts/" not in line]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True,
        check=False, timeout=60,
        env={**os.environ, "PATH": f"{folder}/stand-ins:{os.environ['PATH']}", "CALLS": str(folder / "calls")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = (folder / "calls").read_text().splitlines()
    assert "docker login --username AWS --password-stdin registry.example" in calls
    assert "aws ecr get-login-password --region eu-central-1" in calls
    assert f"make images {REGISTRY} 1 0.1.0" in calls


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
    assert "SC2086" in found("echo $unquoted\n"), "shellcheck works"


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
    charts = {name for row in rows for name in row[0].split(", ")} - {"component"}
    assert charts == {chart.removeprefix("llm-") for chart in CHARTS} - {"observability"}


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
    assert files <= set(re.findall(r"test_\w+\.py", text)), "a file of tests is missing in the table"


def test_every_test_of_the_list_of_installation_faults_exists() -> None:
    text = (ROOT / "docs" / "results" / "installation-faults.md").read_text()
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 19))
    for number, cell in rows:
        named = re.findall(r"`([\w/-]+\.py)::(test_\w+)`", cell)
        assert named or re.fullmatch(r"as \d+", cell), number
        for file, name in named:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
