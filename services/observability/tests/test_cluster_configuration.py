"""Checks the configuration of Loki, Tempo, Alloy, the DCGM exporter and Grafana without running them."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend_agent import devices
from harness.kubernetes.tools import ROOT
from observability.main import main
from observability.metrics_reference import foreign_names
from platform_tools.references.signals import ENGINE_SPAN
from router_service.telemetry.fields import LOG_FIELDS

CHARTS = ROOT / "helm"
ALLOY = (CHARTS / "llm-alloy/files/config.alloy").read_text()
COMMUNITY = yaml.safe_load((ROOT / "helm" / "community" / "alloy.yaml").read_text())["alloy"]["configMap"]
CONFIGURATIONS = {"ours": ALLOY, "community": COMMUNITY.get("content", "")}
EVERY = pytest.mark.parametrize("alloy", CONFIGURATIONS.values(), ids=CONFIGURATIONS)

# What a component gives to others, by its kind's last word.
EXPORTS = {
    "kubernetes": {"targets"},
    "relabel": {"output"},
    "process": {"receiver"},
    "write": {"receiver"},
    "tail_sampling": {"input"},
    "transform": {"input"},
    "batch": {"input"},
    "otlp": {"input"},
    "file_match": {"targets"},
}


def components(alloy: str) -> dict[str, str]:
    """Return every component of an Alloy configuration: "kind.label" -> the text of its block."""
    text = without_comments(alloy)
    found = {}
    for match in re.finditer(r'^([a-z_]+(?:\.[a-z_]+)+) "(\w+)" \{', text, re.MULTILINE):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found[f"{match[1]}.{match[2]}"] = text[match.end() : end - 1]
    return found


def without_comments(alloy: str) -> str:
    """Return the configuration without comments; the slashes of a URL start none."""
    return re.sub(r"(?m)(^|\s)//.*", "", alloy)


def references(text: str) -> list[tuple[str, str]]:
    """References to other components: ("kind.label", what of it)."""
    bare = re.sub(r'`[^`]*`|"[^"]*"', "", text)
    return [(m[1], m[2]) for m in re.finditer(r"\b([a-z_]+(?:\.[a-z_]+){2,})\.([a-z_]+)\b", bare)]


def test_the_community_values_make_the_config_map_that_they_name() -> None:
    assert COMMUNITY["create"] is True
    assert "name" not in COMMUNITY
    assert "{{" not in COMMUNITY["content"], "the chart would read it as a template"


@EVERY
def test_every_reference_of_alloy_names_a_component_and_something_that_it_gives(alloy: str) -> None:
    known = components(alloy)
    assert len(known) >= 6
    for name, text in known.items():
        for target, export in references(text):
            assert target in known, f"{name} refers to {target}, which is not there"
            assert export in EXPORTS[target.split(".")[-2]], f"{name}: {target} has no {export}"


@EVERY
def test_nothing_of_alloy_is_left_unconnected(alloy: str) -> None:
    known = components(alloy)
    used = {target for text in known.values() for target, _ in references(text)}
    ends = {name for name in known if ".source." in name or ".receiver." in name}
    assert known.keys() - used == ends


@EVERY
def test_braces_and_quotes_of_alloy_are_in_pairs(alloy: str) -> None:
    text = without_comments(alloy)
    assert text.count("{") == text.count("}")
    assert text.count("`") % 2 == 0
    assert re.sub(r"`[^`]*`", "", text).count('"') % 2 == 0


@EVERY
def test_alloy_reads_fields_that_log_lines_have_and_makes_no_label_of_an_id(alloy: str) -> None:
    (process,) = [text for name, text in components(alloy).items() if name.startswith("loki.process")]
    fields = set(re.findall(r'= "(\w+)"', process.split("stage.timestamp")[0]))
    assert fields <= LOG_FIELDS.keys()
    labels = process.split("stage.labels")[1].split("stage.structured_metadata")[0]
    assert "request_id" not in labels
    assert "trace_id" not in labels


def test_older_names_of_the_engines_span_are_translated() -> None:
    older = {name for name, meaning in ENGINE_SPAN.items() if meaning.startswith("older name")}
    read = set(re.findall(r', attributes\["([\w.]+)"\]\)', ALLOY))
    assert read == older


def counters() -> list[list[str]]:
    lines = [
        line
        for line in (CHARTS / "llm-dcgm-exporter/files/counters.csv").read_text().splitlines()
        if not line.startswith("#")
    ]
    return [
        [cell.strip() for cell in row] for row in csv.reader(lines, quotechar=None, quoting=csv.QUOTE_NONE)
    ]


def test_every_counter_of_the_dcgm_exporter_is_well_formed_and_once() -> None:
    rows = counters()
    for row in rows:
        assert len(row) >= 3, row
        assert re.fullmatch(r"DCGM_FI_(?:DEV|PROF)_[A-Z0-9_]+", row[0]), row
        assert row[1] in {"gauge", "counter", "label"}, row
    assert len({row[0] for row in rows}) == len(rows)


def test_what_dashboards_and_the_agent_read_is_counted() -> None:
    names = {row[0] for row in counters()}
    dashboards = {name for name in foreign_names() if name.startswith("DCGM")}
    agent = set(re.findall(r"DCGM_FI_\w+", Path(devices.__file__).read_text()))
    assert dashboards | agent <= names, (dashboards | agent) - names
    assert {"DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"} <= names


# The keys that Loki 3 and Tempo 2 document at the top and in the sections used here: a misspelt one ends their start.
LOKI = {
    "": {"auth_enabled", "server", "common", "schema_config", "compactor", "limits_config", "analytics"},
    "server": {"http_listen_port", "grpc_listen_port", "log_level", "log_format"},
    "common": {"path_prefix", "replication_factor", "ring", "storage"},
    "compactor": {"working_directory", "retention_enabled", "delete_request_store"},
    "limits_config": {
        "retention_period", "allow_structured_metadata", "max_global_streams_per_user", "ingestion_rate_mb",
        "ingestion_burst_size_mb", "reject_old_samples_max_age",
    },
}  # fmt: skip
TEMPO = {
    "": {"server", "distributor", "storage", "compactor", "usage_report"},
    "server": {"http_listen_port", "grpc_listen_port", "log_level", "log_format"},
    "distributor": {"receivers"},
    "storage": {"trace"},
    "compactor": {"compaction"},
}


@pytest.mark.parametrize(("name", "known"), [("loki", LOKI), ("tempo", TEMPO)])
def test_only_documented_keys_stand_in_the_configuration(name: str, known: dict[str, set[str]]) -> None:
    document: dict[str, Any] = yaml.safe_load((CHARTS / f"llm-{name}/files/{name}.yaml").read_text())
    for section, keys in known.items():
        used = document if not section else document[section]
        assert used.keys() <= keys, f"{name}.yaml {section}: {used.keys() - keys}"


def test_logs_and_traces_are_deleted_after_a_time_that_is_set() -> None:
    loki = yaml.safe_load((CHARTS / "llm-loki/files/loki.yaml").read_text())
    assert loki["compactor"]["retention_enabled"] is True
    assert loki["limits_config"]["retention_period"].endswith("h")
    newest = loki["schema_config"]["configs"][-1]
    assert (newest["store"], newest["schema"]) == ("tsdb", "v13")  # what structured metadata needs
    assert loki["limits_config"]["allow_structured_metadata"] is True
    tempo = yaml.safe_load((CHARTS / "llm-tempo/files/tempo.yaml").read_text())
    assert tempo["compactor"]["compaction"]["block_retention"].endswith("h")
    assert "otlp" in tempo["distributor"]["receivers"]


def test_grafanas_data_sources_refer_to_each_other_by_uids_that_exist() -> None:
    text = (ROOT / "helm" / "observability" / "templates" / "dashboards.yaml").read_text()
    block = text.split("llm-platform.yaml: |\n", 1)[1]
    block = re.sub(r"\{\{ \.Values\.datasources\.(\w+)[^}]*\}\}", r"http://\1", block)
    sources = {one["uid"]: one for one in yaml.safe_load(block)["datasources"]}
    assert {one["type"] for one in sources.values()} == {"prometheus", "alertmanager", "loki", "tempo"}
    assert set(re.findall(r"datasourceUid: (\w+)", block)) <= sources.keys()
    (default,) = [one for one in sources.values() if one.get("isDefault")]
    assert default["type"] == "prometheus"


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_router_sends_its_spans_where_alloy_listens(environment: str) -> None:
    router = yaml.safe_load((ROOT / "helm" / "environments" / environment / "router.yaml").read_text())
    endpoint = router["config"]["telemetry"]["otlp_endpoint"]
    (receiver,) = [text for name, text in components(ALLOY).items() if name.startswith("otelcol.receiver")]
    assert endpoint == "http://alloy.observability.svc.cluster.local:4318"
    assert '"0.0.0.0:4318"' in receiver


def test_the_files_for_prometheus_on_a_cluster_are_as_generated(tmp_path: Path) -> None:
    assert main(["render", "--profile", "cluster", "--out", str(tmp_path)]) == 0
    rules, own = CHARTS / "observability/files", CHARTS / "llm-prometheus/files"
    homes = {
        **{path.relative_to(rules): rules for path in (rules / "rules").iterdir()},
        Path("prometheus.yml"): own,
        Path("alertmanager.yml"): own,
    }
    rendered = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert rendered == homes.keys()
    for name, home in homes.items():
        assert (home / name).read_text() == (tmp_path / name).read_text(), f"{name}: run `make generate`"
    jobs = rules / "prometheus.yml"
    assert jobs.read_text() == (own / "prometheus.yml").read_text(), (
        "the PodMonitors' jobs: run `make generate`"
    )
