"""The edge's Envoy configuration for its chart: one template with a condition for each option of the chart.

Renders with the edge's own renderer.
"""

from difflib import SequenceMatcher
from itertools import product
from pathlib import Path
from typing import Any

from edge_gateway.render import render_without_routes, source_directory
from edge_gateway.settings import Settings, read_yaml
from platform_tools.checkout import ROOT

TEMPLATE, SETTINGS = "envoy.yaml.tpl", "settings.yaml"
MOUNTED_AT = Path("/etc/edge")
ROUTES = Path("/etc/edge-routes/routes.yaml")
# What each choice adds to the settings of a cluster; the chart mounts the certificate there.
CHOICES: dict[str, dict[str, Any]] = {
    "tls": {
        "tls": {
            "certificate_file": "/etc/edge-tls/tls.crt",
            "private_key_file": "/etc/edge-tls/tls.key",
        }
    },
    "budgets": {"budgets": {"host": "rate-limit-service.llm.svc.cluster.local"}},
}


def variants() -> dict[frozenset[str], dict[str, str]]:
    """Return the rendered files by the set of enabled choices, for all combinations."""
    cluster = read_yaml(source_directory() / "cluster.yaml")
    found: dict[frozenset[str], dict[str, str]] = {}
    for chosen in product((False, True), repeat=len(CHOICES)):
        names = [name for name, on in zip(CHOICES, chosen, strict=True) if on]
        settings = Settings.model_validate(
            {**cluster, **{key: value for name in names for key, value in CHOICES[name].items()}}
        )
        found[frozenset(names)] = render_without_routes(settings, MOUNTED_AT, ROUTES).files
    return found


def chart_files() -> dict[str, str]:
    """Return the chart's files by name: the template, what only a choice adds, and the settings of a cluster."""
    found = variants()
    base = found[frozenset()]["envoy.yaml"]
    choices = {name: found[frozenset({name})]["envoy.yaml"] for name in CHOICES}
    added = {name: text for files in found.values() for name, text in files.items() if name != "envoy.yaml"}
    settings = (source_directory() / "cluster.yaml").read_text()
    return {TEMPLATE: merge(base, choices), SETTINGS: settings, **added}


def merge(base: str, choices: dict[str, str]) -> str:
    """Return a Helm template that renders ``base``, and each text of ``choices`` where `NAME.enabled` is set.

    Raises:
        ValueError: two choices change the same lines, or a text would be read as a Helm action.
    """
    if any("{{" in text for text in (base, *choices.values())):
        raise ValueError("the Envoy configuration contains {{, which Helm would evaluate")
    lines = base.splitlines()
    changes: list[tuple[int, int, str, list[str]]] = []
    for name, text in choices.items():
        changed = text.splitlines()
        for kind, start, end, other_start, other_end in SequenceMatcher(
            None, lines, changed, autojunk=False
        ).get_opcodes():
            if kind != "equal":
                changes.append((start, end, name, changed[other_start:other_end]))
    merged: list[str] = []
    position = 0
    for start, end, name, new in sorted(changes):
        if start < position:
            raise ValueError(f"{name} changes line {start + 1}, which another choice changes too")
        merged += lines[position:start]
        if end > start:
            old = ["{{- else }}", *lines[start:end]] if new else lines[start:end]
            condition = "if" if new else "if not"
        else:
            old, condition = [], "if"
        merged += [f"{{{{- {condition} .Values.{name}.enabled }}}}", *new, *old, "{{- end }}"]
        position = end
    return "\n".join([*merged, *lines[position:]]) + "\n"


def main() -> int:
    """Write the files into the chart and remove obsolete ones."""
    folder = ROOT / "helm" / "edge-gateway" / "files"
    wanted = chart_files()
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
