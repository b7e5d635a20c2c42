"""README, .helmignore and shared metadata of every chart.

Owns their form. The comments of a chart's values.yaml are the only description of its values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from platform_tools.checkout import ROOT

HELM = ROOT / "helm"
COMMON = (
    "Placement, security contexts, extra variables, arguments and volumes, Service, ServiceMonitor and names:",
    "[values of all charts](../README.md#values-of-all-charts).",
)
MARK = "# ---- Common to all charts"
LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w.-]+):(?: (?P<value>.*?))??(?:\s+# (?P<comment>.*))?$")


def files_of(chart: Path) -> dict[Path, str]:
    """Return the text of the chart's generated files by path."""
    facts = yaml.safe_load((chart / "Chart.yaml").read_text())
    values = (chart / "values.yaml").read_text().partition(MARK)[0]
    return {
        chart / "Chart.yaml": _metadata(chart),
        chart / "README.md": _readme(chart, facts, values),
        chart / ".helmignore": (HELM / "shared/.helmignore").read_text(),
    }


def _metadata(chart: Path) -> str:
    own = (chart / "Chart.yaml").read_text().partition(MARK)[0].rstrip("\n") + "\n"
    facts = yaml.safe_load(own)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    lines = [
        own,
        (HELM / "shared/chart.yaml").read_text(),
        "annotations:\n  artifacthub.io/license: Apache-2.0\n",
    ]
    lines.append(f'  artifacthub.io/prerelease: "{str(facts["version"].startswith("0.")).lower()}"\n')
    if images := dict(_images(values, facts)):
        lines.append("  artifacthub.io/images: |\n")
        lines.extend(f"    - {{name: {name}, image: {image}}}\n" for name, image in images.items())
    return "".join(lines)


def _images(values: dict[str, Any], facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    found = [values.get(key) for key in ("image", "agentImage", "alertmanagerImage", "testImage")]
    found.append(values.get("exporter", {}).get("image"))
    for image in filter(None, found):
        path = "/".join(filter(None, (image.get("registry"), image["repository"])))
        name = image["repository"].rpartition("/")[2].replace("_", "-")
        digest = image.get("digest")
        yield name, f"{path}@{digest}" if digest else f"{path}:{image.get('tag') or facts['appVersion']}"


def _readme(chart: Path, facts: dict[str, Any], values: str) -> str:
    examples = sorted([*(chart / "examples").glob("*.yaml"), *(chart / "environments").glob("*.yaml")])
    with_values = f" \\\n  -f {examples[-1].relative_to(ROOT)}" if examples else ""
    rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows_of(values)]
    common = ["", *COMMON] if chart.name != "llm-platform" else []
    kubernetes = facts["kubeVersion"].removesuffix("-0")
    release, namespace = _release(chart)
    command = f"helm install {release} helm/{chart.name} --namespace {namespace}{with_values}"
    lines = [
        f"# {facts['name']}", "", "<!-- generated from values.yaml and Chart.yaml by `make generate` -->", "",
        facts["description"], "",
        f"Chart {facts['version']}, application {facts['appVersion']}, Kubernetes {kubernetes}.", "",
        "```bash", command, "```", "",
        "| value | default | meaning |", "|---|---|---|", *rows, *common,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _release(chart: Path) -> tuple[str, str]:
    """Return the name and the namespace of the chart's release, as in helm/releases.yaml."""
    releases = yaml.safe_load((HELM / "releases.yaml").read_text())["releases"]
    own = [(one["name"], one["namespace"]) for one in releases if one["chart"] == chart.name]
    return own[0] if len(own) == 1 else (chart.name, own[0][1] if own else "llm")


def rows_of(values: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and meaning of every documented or scalar key, from its comments."""
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in values.splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.lstrip("# "))
            continue
        found = LINE.match(line)
        if found is None:
            above = []
            continue
        indent = len(found["indent"])
        parents = [one for one in parents if one[0] < indent]
        name = ".".join([*(key for _, key in parents), found["key"]])
        parents.append((indent, found["key"]))
        meaning = " ".join([*above, *filter(None, [found["comment"]])])
        above = []
        if found["value"] or meaning:
            yield f"`{name}`", f"`{found['value']}`" if found["value"] else "", meaning


def charts() -> list[Path]:
    """Return the folders of all charts."""
    return sorted(path.parent for path in HELM.glob("*/Chart.yaml"))


def write(files: Iterable[dict[Path, str]]) -> None:
    """Write the generated files of charts: the text by path, for each chart."""
    for texts in files:
        for path, text in texts.items():
            path.write_text(text)


def main() -> int:
    """Write the generated files of every chart."""
    write(files_of(chart) for chart in charts())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
