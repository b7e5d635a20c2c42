"""LogQL and TraceQL parse with Grafana's own grammars; what they read is what our logs and spans have."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from harness.npm import installed
from observability.dashboards.catalogue import queries
from observability.dashboards.grafana import CHANGES
from router_service.telemetry.fields import CHANGE_FIELDS, LOG_FIELDS, RECORD_FIELDS, SPAN_ATTRIBUTES

HERE = Path(__file__).parent / "grammars"
QUERIES = [(source, query.expression) for source in ("loki", "tempo") for _, query in queries(source)]
QUERIES.append(("loki", CHANGES))
STREAM_LABELS = {"namespace", "service", "pod", "container", "level"}
"""Labels that alloy/config.alloy gives a log stream."""


@pytest.fixture(scope="module")
def grammars() -> Path:
    """The folder with the grammars."""
    return installed(HERE)


def parse(grammars: Path, asked: list[tuple[str, str]]) -> list[int | None]:
    """Return the position of each query's syntax error, or None."""
    lines = "".join(json.dumps({"language": source, "query": query}) + "\n" for source, query in asked)
    done = subprocess.run(
        ["node", "parse.mjs"], cwd=grammars, input=lines, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def with_values(query: str) -> str:
    """The query with Grafana's variables filled in."""
    return query.replace("$request_id", "3e1f0b1c")


def test_every_query_parses(grammars: Path) -> None:
    assert {source for source, _ in QUERIES} == {"loki", "tempo"}
    asked = [(source, with_values(query)) for source, query in QUERIES]
    for (source, query), wrong in zip(asked, parse(grammars, asked), strict=True):
        assert wrong is None, f"{source}: {query[wrong:]!r} in {query!r}"


def test_a_mistake_would_be_seen(grammars: Path) -> None:
    asked = [("loki", '{a="b"} | jsn ||'), ("loki", '{a="b"'), ("tempo", "{ span.llm. = }")]
    assert None not in parse(grammars, asked)


def test_what_they_read_is_what_we_write() -> None:
    for source, query in QUERIES:
        bare = re.sub(r'"[^"]*"', "", query)
        if source == "tempo":
            read = set(re.findall(r"\bspan\.([\w.]+)", bare))
            assert read <= SPAN_ATTRIBUTES.keys(), read
        else:
            stream = set(re.findall(r"(\w+)=", re.search(r"\{([^}]*)\}", query)[1]))  # type: ignore[index]
            assert stream <= STREAM_LABELS, stream
            fields = set(re.findall(r"(?:\||\bor\b|\band\b)\s*(\w+)\s*(?:=|>|<)", bare))
            fields |= set(re.findall(r"\{\{\.(\w+)\}\}", query))
            fields |= set(re.findall(r"\bby \((\w+)\)", query))
            assert fields <= RECORD_FIELDS.keys() | LOG_FIELDS.keys() | CHANGE_FIELDS.keys(), fields
