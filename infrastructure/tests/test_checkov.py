"""checkov over all Terraform: nothing but what infrastructure/checkov.yaml gives a reason for."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.programs

INFRASTRUCTURE = Path(__file__).resolve().parents[1]
CHECKOV = INFRASTRUCTURE.parent / ".venv-tools" / "bin" / "checkov"

OPEN_BUCKET = """
resource "aws_s3_bucket" "this" {
  bucket = "x"
}

resource "aws_security_group_rule" "this" {
  type              = "ingress"
  from_port         = 22
  to_port           = 22
  protocol          = "tcp"
  cidr_blocks       = ["0.0.0.0/0"]
  security_group_id = "sg-1"
}
"""


def findings(folder: Path) -> dict[str, list[str]]:
    """Return file and line of every failed check, by its id."""
    if not CHECKOV.exists():
        pytest.fail("no .venv-tools: python3 scripts/install-dependencies tools")
    done = subprocess.run(
        [
            *(CHECKOV, "-d", folder, "--framework", "terraform", "--download-external-modules", "false"),
            *("--quiet", "--compact", "-o", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 0
    found: dict[str, list[str]] = {}
    for check in report["results"]["failed_checks"]:
        place = f"{check['file_path']}:{check['file_line_range'][0]} {check['check_name']}"
        found.setdefault(check["check_id"], []).append(place)
    return found


def test_checkov_finds_only_what_has_a_reason_to_stay() -> None:
    skipped = yaml.safe_load((INFRASTRUCTURE / "checkov.yaml").read_text())["skip"]
    assert all(len(reason) > 40 for reason in skipped.values())
    found = findings(INFRASTRUCTURE)
    assert {check: places for check, places in found.items() if check not in skipped} == {}
    assert set(skipped) - set(found) == set(), "these reasons are no longer needed"


def test_a_planted_open_port_is_found(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(OPEN_BUCKET)
    found = findings(tmp_path)
    assert found["CKV_AWS_24"][0].startswith("/main.tf:6 ")
