"""The import rules of `make check` pass, and each kind of violation fails them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from platform_tools.checkout import ROOT
from platform_tools.local_stack.installation import PROJECTS

LINT_IMPORTS = ROOT / ".venv" / "bin" / "lint-imports"


def lint(source: Path, project: str) -> subprocess.CompletedProcess[str]:
    """Check one project's rules against the packages in ``source``."""
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--config", ROOT / project / "pyproject.toml"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


@pytest.mark.parametrize("project", PROJECTS)
def test_every_project_has_import_rules_and_keeps_them(project: str) -> None:
    done = lint(ROOT / project / "src", project)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("project", "file", "line"),
    [
        ("services/router-service", "router_service/routing/decide.py", "import random"),
        ("services/router-service", "router_service/routing/decide.py", "import router_service.telemetry"),
        ("services/router-service", "router_service/pipeline/pipeline.py", "import httpx"),
        (
            "services/router-service",
            "router_service/upstream/connection.py",
            "import router_service.pipeline",
        ),
        ("services/edge-gateway", "edge_gateway/settings.py", "import edge_gateway.render"),
        ("services/rate-limit-service", "rate_limit_service/store.py", "import router_service"),
        ("services/inference-backend", "backend_agent/judgement.py", "import backend_agent.app"),
        ("services/engine-simulator", "engine_simulator/engine.py", "import engine_simulator.responses_api"),
        ("services/observability", "observability/rules/alerts.py", "import observability.why_ttft.causes"),
        ("load-testing", "load_testing/users/client.py", "import load_testing.reports.page"),
        (
            "tools/platform-tools",
            "platform_tools/deploy/main.py",
            "import platform_tools.cluster_lifecycle.main",
        ),
        ("tools/terraform-check", "terraform_check/source.py", "import terraform_check.checks"),
    ],
)
def test_a_planted_import_breaks_a_rule(project: str, file: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / project / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    planted = tmp_path / "src" / file
    planted.write_text(f"{planted.read_text()}\n{line}\n")
    done = lint(tmp_path / "src", project)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
