"""The parts that all charts share: templates under the chart's own prefix, values and their schema.

Each chart carries a copy, so that it installs by itself. An umbrella chart shares one namespace of templates,
so every copy prefixes them with its chart's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from platform_tools.references import chart_docs
from platform_tools.references.chart_docs import HELM, MARK, rows_of
from platform_tools.references.model_schemas import values_of

TEMPLATE, PREFIX = "templates/_names.tpl", '"chart.'
# Meanings of values that several charts have and values.yaml leaves without a comment.
MEANINGS = {
    "agent": "the backend-agent next to the engine",
    "alertmanager": "Alertmanager: whom it notifies, and its resources",
    "alertmanagerImage": "image of Alertmanager",
    "dashboards": "dashboards as a ConfigMap that Grafana mounts",
    "datasources": "data sources as a ConfigMap that Grafana mounts",
    "datasourcesConfigMap": "ConfigMap with the data sources, of the chart observability",
    "image": "image of the main container",
    "intervalMilliseconds": "time between two readings of the counters",
    "kubeletPodResources": "folder of the kubelet's socket that names the pod of each GPU",
    "limits": "requests and tokens of a client in a minute",
    "lokiUrl": "where logs are sent",
    "maxMemory": "memory for keys; above it, keys are evicted or writes refused",
    "namespaces": "namespaces that are observed",
    "networkPolicy": "who may connect to the pods, and where they may connect to",
    "pdb": "disruption budget: how many pods may be missing during a drain",
    "persistence": "a volume for what the pod stores",
    "podMonitors": "PodMonitors for the Prometheus operator",
    "resources": "requests and limits of the main container",
    "retention": "how long, and how many bytes, Prometheus keeps",
    "tempoEndpoint": "where traces are sent (host:port)",
    "testImage": "image of the pod of `helm test`",
}
NULLABLE = ("runAsUser", "enabled", "digest")
WITHOUT_PODS = {"observability"}
WITHOUT_METRICS = {"console"}
POD_ONLY = (
    "podLabels", "podAnnotations", "podSecurityContext", "securityContext", "nodeSelector", "tolerations", "affinity",
    "topologySpreadConstraints", "priorityClassName", "runtimeClassName", "extraEnv", "extraArgs", "extraVolumes",
    "extraVolumeMounts", "imagePullSecrets", "startupSeconds", "service", "serviceMonitor",
)  # fmt: skip


def charts() -> list[Path]:
    """Return the folders of the charts with shared parts."""
    return [chart for chart in chart_docs.charts() if (chart / TEMPLATE).exists()]


def files_of(chart: Path) -> dict[Path, str]:
    """Return the text of the chart's files with shared parts, by path."""
    template = (HELM / "shared/_names.tpl").read_text().replace(PREFIX, f'"{chart.name}.')
    return {
        chart / TEMPLATE: template,
        chart / "values.yaml": _values(chart),
        chart / "values.schema.json": _written(_schema(chart)),
    }


def _written(schema: dict[str, Any]) -> str:
    """Return a schema as JSON with one line for each value, so that a diff shows which value changed."""
    parts = []
    for key, value in schema.items():
        text = json.dumps(value)
        if key in ("properties", "$defs"):
            lines = [f"    {json.dumps(name)}: {json.dumps(below)}" for name, below in value.items()]
            text = "{\n" + ",\n".join(lines) + "\n  }"
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _values(chart: Path) -> str:
    own = (chart / "values.yaml").read_text().partition(MARK)[0].rstrip("\n") + "\n\n"
    lines = (HELM / "shared/values.yaml").read_text().splitlines(keepends=True)
    left_out = {*_left_out(chart), *_own_keys(chart)}
    return own + "".join(line for line in lines if line.partition(":")[0] not in left_out)


def _schema(chart: Path) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((chart / "values.schema.json").read_text())
    shared = json.loads((HELM / "shared/schema.json").read_text())
    left_out = {*_left_out(chart), *_own_keys(chart)}
    own = {k: v for k, v in schema["properties"].items() if k not in shared or k in _own_keys(chart)}
    commented = {name.strip("`"): meaning for name, _, meaning in rows_of(_values(chart)) if meaning}
    _describe(own, "", MEANINGS | commented)
    generated, definitions = values_of(chart.name)
    _describe(generated, "", MEANINGS)
    if definitions:
        schema["$defs"] = definitions
    plain = own | {key: value for key, value in shared.items() if key not in left_out}
    schema["properties"] = own | generated | plain
    schema["required"] = _require(plain, yaml.safe_load(_values(chart)))
    return schema


def _require(properties: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Require every option that templates read; return those of the top level.

    Helm deletes a default whose value is null, and its error then names the option. Null stays possible where it means
    the same as an empty value: in free mappings, empty defaults, and the user, which OpenShift chooses.
    """
    required = []
    for key, default in defaults.items():
        schema = properties.get(key, {})
        if default and isinstance(default, dict) and "properties" in schema:
            below = _require(schema["properties"], default)
            schema["required"] = sorted({*schema.get("required", []), *below})
        elif isinstance(default, dict) or default in ("", None, []) or key in NULLABLE:
            continue
        if key in properties:
            required.append(key)
    return required


def _describe(properties: dict[str, Any], prefix: str, meanings: dict[str, str]) -> None:
    """Give each property without a description the meaning that values.yaml has for it; remove empty descriptions."""
    for key, value in properties.items():
        name = prefix + key
        if not value.get("description"):
            value.pop("description", None)
            if name in meanings:
                value["description"] = meanings[name]
        if not value.get("items", {}).get("description", "set"):
            del value["items"]["description"]
        _describe(value.get("properties", {}), f"{name}.", meanings)


def _own_keys(chart: Path) -> frozenset[str]:
    """Return the keys of the chart's own values, which override shared values of the same name."""
    own = (chart / "values.yaml").read_text().partition(MARK)[0]
    return frozenset(yaml.safe_load(own) or {})


def _left_out(chart: Path) -> tuple[str, ...]:
    if chart.name in WITHOUT_METRICS:
        return ("serviceMonitor",)
    return POD_ONLY if chart.name in WITHOUT_PODS else ()


def main() -> int:
    """Write the shared parts into every chart."""
    chart_docs.write(files_of(chart) for chart in charts())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
