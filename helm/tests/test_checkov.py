"""checkov on every rendered chart: helm/checkov.yaml allows each finding for named objects, with a reason."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.checkov import failed_checks
from harness.kubernetes.tools import tool

pytestmark = pytest.mark.programs

HELM = Path(__file__).resolve().parents[1]
ROOT_POD = """
apiVersion: v1
kind: Pod
metadata: {name: planted, namespace: llm}
spec:
  hostNetwork: true
  containers:
    - {name: a, image: "x:1", securityContext: {privileged: true}}
"""


def findings(folder: Path) -> dict[str, set[str]]:
    """Return the objects of every failed check, by its id."""
    found: dict[str, set[str]] = {}
    for check in failed_checks(folder, "kubernetes"):
        kind, _, name = check["resource"].split(".", 2)
        found.setdefault(check["check_id"], set()).add(f"{kind}.{name}")
    return found


def test_checkov_finds_only_what_has_a_reason_to_stay(tmp_path: Path) -> None:
    for example in HELM.glob("*/examples/*.yaml"):
        chart = example.parents[1]
        done = subprocess.run(
            [tool("helm"), "template", "r", chart, "-n", "llm", "-f", example],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        (tmp_path / f"{chart.name}-{example.name}").write_text(done.stdout)
    skipped = yaml.safe_load((HELM / "checkov.yaml").read_text())["skip"]
    assert all(len(entry["reason"]) > 40 for entry in skipped.values())
    found = findings(tmp_path)
    unexplained = {
        check: {
            place
            for place in places
            if check not in skipped or not re.fullmatch(skipped[check]["where"], place)
        }
        for check, places in found.items()
    }
    assert {check: places for check, places in unexplained.items() if places} == {}
    assert set(skipped) - set(found) == set(), "these reasons are no longer needed"


def test_a_planted_privileged_pod_is_found(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(ROOT_POD)
    found = findings(tmp_path)
    assert found["CKV_K8S_16"] == {"Pod.planted"}
    assert found["CKV_K8S_19"] == {"Pod.planted"}
