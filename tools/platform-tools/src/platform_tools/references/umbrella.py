"""Values of the chart llm-platform for each environment: the values of each release of `scripts/deploy`,
under its part's name.

Owns the mapping of releases to parts. The values themselves live in helm/environments.
"""

from pathlib import Path

import yaml

from platform_tools.checkout import ROOT
from platform_tools.deploy.releases import releases_of

HELM = ROOT / "helm"
CHART = HELM / "llm-platform"
ENGINE = "inference-backend"


def parts() -> dict[str, str]:
    """Return the chart of each part of the umbrella. A part's name is its dependency's alias, or else its name."""
    facts = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return {one.get("alias", one["name"]): one["name"] for one in facts["dependencies"]}


def environment_files() -> dict[Path, str]:
    """Return each environment's values of the umbrella, by path."""
    names = sorted(path.name for path in (HELM / "environments").iterdir() if path.is_dir())
    return {CHART / "environments" / f"{name}.yaml": _values(name) for name in names}


def _values(environment: str) -> str:
    lines = [
        f"# The environment {environment} in one release.\n",
        f"# Generated from helm/environments/{environment} by `make generate`.\n",
    ]
    part_of = {chart: part for part, chart in parts().items()}
    texts = {}
    for release in releases_of(HELM, environment, []):
        part = release.name if release.chart.name == ENGINE else part_of[release.chart.name]
        texts[part] = "".join(file.read_text() for file in release.values)
    for part in parts():
        if part not in texts:
            lines.append(f"{part}: {{enabled: false}}\n")
            continue
        lines.append(f"{part}:\n  enabled: true\n")
        lines.extend(f"  {line}" if line.strip() else line for line in texts[part].splitlines(keepends=True))
    return "".join(lines)


def main() -> int:
    """Write the environments of the umbrella."""
    for path, text in environment_files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
