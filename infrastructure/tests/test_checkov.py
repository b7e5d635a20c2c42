"""checkov over all Terraform: nothing but what infrastructure/checkov.yaml gives a reason for."""

from pathlib import Path

import pytest
import yaml

from harness.checkov import failed_checks

pytestmark = pytest.mark.programs

INFRASTRUCTURE = Path(__file__).resolve().parents[1]

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
    found: dict[str, list[str]] = {}
    for check in failed_checks(folder, "terraform", "--download-external-modules", "false"):
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
