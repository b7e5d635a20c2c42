"""Where the Terraform code is; knows paths only."""

from pathlib import Path

INFRASTRUCTURE = Path(__file__).resolve().parents[1]
REPOSITORY = INFRASTRUCTURE.parent
FOLDERS = sorted(
    {path.parent for room in ("modules", "environments") for path in (INFRASTRUCTURE / room).rglob("*.tf")}
)
