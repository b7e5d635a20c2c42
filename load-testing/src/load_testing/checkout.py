"""The checkout that a measurement runs in. The load generator's image has none and does not need one."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
