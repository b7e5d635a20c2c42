"""Settings of the edge as values of its chart: what is accepted reaches Envoy, and a pod starts from it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from edge_gateway.render import render, render_without_routes
from edge_gateway.settings import Settings
from harness.kubernetes.chart_fields import merged, nested
from harness.kubernetes.charts import EDGE, HELM, helm
from harness.ports import free_port
from harness.processes import answers, running
from platform_tools.references.edge_variants import MOUNTED_AT, ROUTES

pytestmark = [pytest.mark.service, pytest.mark.untimed]

CHART = HELM / EDGE
DIGESTS = {"tester": ["0" * 64]}


def rendered(*sets: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    words = ["--set-json", f"settings={json.dumps(settings)}"]
    for one in ("routesSecret=edge-routes", "tls.secret=edge-tls", *sets):
        words += ["--set", one]
    done = helm("template", "edge", CHART, "-n", "llm", *words)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def one_of(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (one for one in documents if one["kind"] == kind)
    return found


SETTINGS: dict[str, Any] = {
    "trusted_proxies": 1,
    "router": {"dead_peer_seconds": 5.0},
    "timeouts": {"slow_reader_seconds": 77.0},
    "bounds": {"max_header_kib": 32, "max_client_body_bytes": 99_999_999},
    "tracing": {"sample_ratio": 0.5},
}


@pytest.mark.parametrize("choices", [(), ("budgets.enabled=true", "tls.enabled=true")])
def test_settings_of_the_edge_are_merged_over_the_charts_own(choices: tuple[str, ...]) -> None:
    documents = rendered(*choices, settings=SETTINGS)
    files = one_of(documents, "ConfigMap")["data"]
    assert set(files) == {"settings.yaml"}
    found = Settings.model_validate(yaml.safe_load(files["settings.yaml"]))
    for section, wanted in SETTINGS.items():
        of = getattr(found, section)
        assert wanted == ({key: getattr(of, key) for key in wanted} if isinstance(wanted, dict) else of), (
            section
        )
    assert (found.listen.host, found.listen.port, found.telemetry.port) == ("0.0.0.0", 8080, 9902)
    assert found.router.host == "router-service-headless.llm.svc.cluster.local"
    assert found.bounds.max_heap_bytes == int(1536 * 1024 * 1024 * 0.7)
    assert (found.tls is not None, found.budgets is not None) == (bool(choices), bool(choices))


def test_every_setting_of_the_charts_schema_changes_the_envoy_configuration() -> None:
    """A setting that only the route table or another program reads would be accepted without effect."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    full = Settings.model_validate(
        {
            "router": {"tls": {"ca_file": "/ca", "server_name": "s", "certificate_file": "/c", "private_key_file": "/k"}},
            "auth": {"mode": "jwt", "jwt": {"issuer": "i", "audiences": ["a"], "jwks_url": "https://x.example/k"}},
            "budgets": {"host": "b"}, "tracing": {"collector": {"host": "c"}},
        }
    ).model_dump()  # fmt: skip
    # An idle timeout applies either with TLS or without.
    bases = [full, {**full, "tls": {"certificate_file": "/c", "private_key_file": "/k"}}]

    def rendered(change: dict[str, Any]) -> list[Any]:
        return [
            render_without_routes(Settings.model_validate(merged(base, change)), MOUNTED_AT, ROUTES).files
            for base in bases
        ]

    before = rendered({})
    without_effect = []
    # Whole sections, choices and lists go through their parts; drain_seconds is an argument of Envoy; api_version has only
    # one value.
    others = {"api_version", "auth.mode", "auth.jwt.jwks_file", "timeouts.drain_seconds"}
    changed = {"router.replicas": [{"host": "r", "port": 1}], "router.health_path": "/other", "bounds.media_hosts": ["a"],
               "auth.jwt.jwks_url": "https://y.example/k", "tracing.sample_ratio": 0.5}  # fmt: skip
    for path, value in leaves(schema, schema["properties"]["settings"], full):
        if path in others:
            continue
        new = changed.get(
            path, f"{value}x" if isinstance(value, str) else ["b"] if isinstance(value, list) else 0
        )
        if (
            rendered(nested(path, value + 1 if isinstance(value, int | float) and new == 0 else new))
            == before
        ):
            without_effect.append(path)
    assert without_effect == []


def leaves(
    schema: dict[str, Any], part: dict[str, Any], values: Any, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each leaf that a schema allows."""
    for key, below in part["properties"].items():
        references = [one["$ref"] for one in (below, *below.get("anyOf", ())) if "$ref" in one]
        if references:
            definition = schema["$defs"][references[0].rpartition("/")[2]]
            yield from leaves(schema, definition, values[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values[key]


def test_an_edge_starts_from_the_settings_of_the_chart(tmp_path: Path) -> None:
    """With the arguments of the pod, the route table of the Secret, and ports of this machine."""
    documents = rendered(settings={"trusted_proxies": 1, "router": {"host": "127.0.0.1"}})
    (container,) = one_of(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    for name, text in one_of(documents, "ConfigMap")["data"].items():
        (tmp_path / name).write_text(text)
    routes = tmp_path / "routes.yaml"
    routes.write_text(render(Settings(), DIGESTS, MOUNTED_AT, ROUTES).files["routes.yaml"])
    moved = {
        "/etc/edge-routes/": f"{tmp_path}/",
        "/etc/edge/": f"{tmp_path}/",
        "/tmp/edge": f"{tmp_path}/run",
    }
    arguments = list(container["args"])
    for inside, here in moved.items():
        arguments = [one.replace(inside, here) if one.startswith(inside) else one for one in arguments]
    ports = {name: str(free_port()) for name in ("EDGE_PORT", "EDGE_ADMIN_PORT", "EDGE_TELEMETRY_PORT")}
    command = [sys.executable, "-m", "edge_gateway.main"]
    ready = answers(f"http://127.0.0.1:{ports['EDGE_TELEMETRY_PORT']}/ready")
    with running([*command, *arguments], log=tmp_path / "log", ready=ready, env=ports, ready_seconds=60):
        assert httpx.get(f"http://127.0.0.1:{ports['EDGE_PORT']}/v1/models").status_code == 401
    assert (tmp_path / "run/envoy.yaml").exists()
    assert not (tmp_path / "run/routes.yaml").exists()
    routes.write_text(routes.read_text().replace("0" * 64, "none"))
    refused = subprocess.run(
        [*command, *arguments],
        env={**os.environ, **ports},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "contains no credential" in refused.stderr
