"""A chart's manifests as fields: one path for each value, so that two renderings can be compared line by line."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.tools import tool
from platform_tools.deploy.needs import CRD_VERSIONS

HELM = Path(__file__).resolve().parents[3] / "helm"
# The component charts; the umbrella chart llm-platform has separate tests.
UMBRELLA = "llm-platform"
CHARTS = sorted(path.parent.name for path in HELM.glob("*/Chart.yaml") if path.parent.name != UMBRELLA)
NAMESPACE = "llm"
TEXT = (".conf", ".alloy", ".csv")


def read(path: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.load(path.read_text(), yaml.CSafeLoader)


def nested(option: str, value: Any) -> dict[str, Any]:
    for key in reversed(option.split(".")):
        value = {key: value}
    return dict(value)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merged(below or {}, value) if both else value
    return result


def flattened(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each field with its path, including the fields of YAML files in ConfigMaps."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            if isinstance(below, str) and ".data" in path and key.endswith((".yaml", ".yml")):
                below = yaml.load(below, yaml.CSafeLoader)
            elif isinstance(below, str) and ".data" in path and key.endswith(TEXT):
                below = below.splitlines()
            yield from flattened(below, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for item in value:
            if isinstance(item, dict) and "name" in item:
                yield from flattened(item, f"{path}[{item['name']}]")
            else:
                yield f"{path}[{item if isinstance(item, str) else json.dumps(item, sort_keys=True)}]", True
    else:
        yield path, value


def render(chart: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return every field of the chart's manifests by its path."""
    done = subprocess.run(
        [tool("helm"), "template", "release", HELM / chart, "-n", NAMESPACE, "-f", "-",
         *(f"--api-versions={version}" for version in CRD_VERSIONS)],
        input=yaml.safe_dump(dict(values)), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {}
    for document in yaml.load_all(done.stdout, yaml.CSafeLoader):
        if document:
            namespace = document["metadata"].get("namespace")
            place = namespace if namespace != NAMESPACE else None
            name = f"{document['kind']}/{f'{place}/' if place else ''}{document['metadata']['name']}"
            found |= {
                path.replace(f"{name}.", f"{name} ", 1): value for path, value in flattened(document, name)
            }
    return found
