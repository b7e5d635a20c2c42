"""Rendered files for local use and for a cluster: compared with goldens, and validated by the real Envoy.

UPDATE_GOLDENS=1 rewrites the goldens; the review then shows what a change really does.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway import launch
from edge_gateway.render import Rendered, render, source_directory
from edge_gateway.settings import Settings, load_settings

GOLDENS = Path(__file__).parent / "goldens"
CHART = Path(__file__).resolve().parents[3] / "helm" / "edge-gateway"
DIGESTS = {"tester": ["0" * 64, "1" * 64], "load": ["2" * 64]}
MOUNT = Path("/etc/edge")
ROUTES = Path("/etc/edge-routes/routes.yaml")

EVERYTHING: dict[str, Any] = {
    "listen": {"host": "0.0.0.0", "port": 8443},
    "trusted_proxies": 1,
    "tls": {"certificate_file": "/etc/edge-tls/tls.crt", "private_key_file": "/etc/edge-tls/tls.key"},
    "router": {
        "host": "router-service.llm.svc.cluster.local",
        "tls": {
            "ca_file": "/etc/router-tls/ca.crt",
            "server_name": "router-service.llm.svc.cluster.local",
            "certificate_file": "/etc/router-tls/tls.crt",
            "private_key_file": "/etc/router-tls/tls.key",
        },
    },
    "auth": {
        "mode": "jwt",
        "jwt": {
            "issuer": "https://issuer.example",
            "audiences": ["llm"],
            "client_claim": "client",
            "jwks_url": "https://issuer.example/jwks.json",
        },
    },
    "limits": {
        "default": {"requests_per_second": 0.5, "burst": 5, "tokens_per_minute": 10_000},
        "clients": {"batch": {"requests_per_second": 100, "burst": 200, "requests_per_minute": 1_000}},
    },
    "budgets": {"host": "rate-limit-service.llm.svc.cluster.local", "when_unavailable": "refuse"},
}


def settings_of(case: str) -> Settings:
    if case == "everything":
        return Settings.model_validate(EVERYTHING)
    return load_settings(source_directory() / f"{case}.yaml", {})


def rendered(case: str) -> Rendered:
    return render(settings_of(case), DIGESTS, MOUNT, ROUTES)


def golden_files(case: str) -> dict[str, str]:
    """Return a case's files without the digest of the route table, because every change of the table changes it."""
    version = re.compile(r"^version_info: '[0-9a-f]{16}'$", re.MULTILINE)
    return {
        name: version.sub("version_info: 'digest'", text, count=1)
        for name, text in rendered(case).files.items()
    }


def difference(case: str) -> str:
    """Return what a case's files change against those of `cluster`. No line numbers: they move with every change."""
    whole, files = golden_files("cluster"), golden_files(case)
    lines: list[str] = []
    for name in sorted({*whole, *files}):
        before, after = (found.get(name, "").splitlines() for found in (whole, files))
        hunks = list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]
        lines += [f"=== {name}", *("@@" if line.startswith("@@") else line.rstrip() for line in hunks)]
    return "\n".join(lines) + "\n"


def chart_file() -> str:
    """Return the Envoy configuration that the chart mounts without any of its choices."""
    template = (CHART / "files" / "envoy.yaml.tpl").read_text()
    shown, lines = True, []
    for line in template.splitlines():
        if action := re.fullmatch(r"\{\{- (if not|if|else|end)\b.*\}\}", line):
            shown = action.group(1) != "if"
        elif shown:
            lines.append(line)
    return "\n".join(lines) + "\n"


def test_the_cluster_files_are_those_of_the_chart_and_the_golden() -> None:
    files = golden_files("cluster")
    golden = GOLDENS / "cluster-routes.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(files["routes.yaml"])
    assert set(files) == {"envoy.yaml", "routes.yaml"}
    assert golden.read_text() == files["routes.yaml"], f"{golden.name}: run with UPDATE_GOLDENS=1 and review"
    assert chart_file() == files["envoy.yaml"], "helm/edge-gateway/files: make generate"


@pytest.mark.parametrize("case", ["local", "everything"])
def test_other_goldens_hold_what_differs_from_the_cluster(case: str) -> None:
    golden = GOLDENS / f"{case}.diff"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(difference(case))
    assert golden.read_text() == difference(case), f"{golden.name}: run with UPDATE_GOLDENS=1 and review"


@pytest.mark.parametrize("case", ["local", "cluster", "everything"])
def test_only_the_route_table_holds_anything_about_keys(case: str) -> None:
    whole = rendered(case)
    for name, text in whole.files.items():
        if name not in whole.secret:
            assert "0" * 64 not in text
    assert ("0" * 64 in whole.files["routes.yaml"]) == (case != "everything")


def test_the_version_of_the_route_table_changes_with_its_contents() -> None:
    versions = {
        yaml.safe_load(rendered(case).files["routes.yaml"])["version_info"] for case in ("local", "cluster")
    }
    assert len(versions) == 2
    assert rendered("local").files == rendered("local").files


def manager_of(case: str) -> dict[str, Any]:
    document = yaml.safe_load(rendered(case).files["envoy.yaml"])
    listener = document["static_resources"]["listeners"][0]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def routes_of(case: str) -> list[dict[str, Any]]:
    table = yaml.safe_load(rendered(case).files["routes.yaml"])
    routes: list[dict[str, Any]] = table["resources"][0]["virtual_hosts"][0]["routes"]
    return routes


@pytest.mark.parametrize("case", ["local", "cluster", "everything"])
def test_the_time_ladder_holds(case: str) -> None:
    """The router's total (600 s) ends first, then the silence limit here; no deadline cuts a stream."""
    for route in routes_of(case):
        action = route.get("route")
        if (
            action
            and not route["name"].startswith(("/v1/models", "/v1/requests"))
            and (route["name"] != "/v1/responses/{id}/cancel")
        ):
            assert action["timeout"] == "0s"
            assert action["idle_timeout"] == "630s"
    assert manager_of(case)["stream_idle_timeout"] == "630s"
    assert manager_of(case)["common_http_protocol_options"]["idle_timeout"] == "660s"
    document = yaml.safe_load(rendered(case).files["envoy.yaml"])
    router = document["static_resources"]["clusters"][0]
    options = router["typed_extension_protocol_options"][
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ]
    assert options["common_http_protocol_options"]["idle_timeout"] == "2s", "below settle_seconds of a router"


@pytest.mark.parametrize("case", ["local", "cluster", "everything"])
def test_the_last_route_refuses_what_no_other_names(case: str) -> None:
    routes = routes_of(case)
    assert routes[-1]["match"] == {"prefix": "/"}
    assert routes[-1]["direct_response"] == {"status": 404}
    allowed = {route["name"] for route in routes if "route" in route}
    assert allowed == {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
        *("/v1/messages/count_tokens", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score"),
        *(
            "/v1/classify",
            "/classify",
            "/pooling",
            "/tokenize",
            "/detokenize",
            "/v1/models",
            "/v1/models/{id}",
            "/v1/audio/transcriptions",
            "/v1/audio/translations",
            "/v1/requests/{id}",
            "/v1/responses/{id}",
            "/v1/responses/{id}/cancel",
        ),
    }


@pytest.mark.service
@pytest.mark.parametrize("case", ["local", "cluster", "everything"])
def test_envoy_itself_accepts_it(case: str, tmp_path: Path) -> None:
    import trustme

    whole = render(settings_of(case), DIGESTS, tmp_path)
    whole.write(tmp_path)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    for file in tmp_path.glob("*.yaml"):
        text = file.read_text()
        for folder in ("/etc/edge-tls", "/etc/router-tls"):
            text = text.replace(folder, str(tmp_path))
        file.write_text(text)
    launch.validate(tmp_path)


@pytest.mark.service
@pytest.mark.parametrize("where", ["envoy.yaml", "routes.yaml"])
def test_a_damaged_file_is_refused_by_the_check(where: str, tmp_path: Path) -> None:
    render(settings_of("local"), DIGESTS, tmp_path).write(tmp_path)
    path = tmp_path / where
    path.write_text(path.read_text().replace("/v1/models/(?:", "((").replace("STRICT_DNS", "NONE"))
    if where == "envoy.yaml":
        path.write_text(path.read_text().replace("stat_prefix: edge\n", "stat_perfix: edge\n"))
    from edge_gateway.settings import BadSettings

    with pytest.raises(BadSettings, match="Envoy refuses"):
        launch.validate(tmp_path)
