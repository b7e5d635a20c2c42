"""Paths of the Terraform code."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[4]
INFRASTRUCTURE = REPOSITORY / "infrastructure"
FOLDERS = sorted(
    {
        path.parent
        for room in ("modules", "environments", "account")
        for path in (INFRASTRUCTURE / room).rglob("*.tf")
    }
)
