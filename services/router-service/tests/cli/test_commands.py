"""The commands check, decide, explain and replay, with their exit codes and output."""

import json
from pathlib import Path

import pytest

from router_service.cli.commands import main

CONFIG = Path(__file__).parents[2] / "config" / "local.yaml"

POOLS = "pools: {p: {models: [m], backends: {b: {url: 'http://h:1'}}}, q: {models: [n], backends: {c: {url: 'http://h:2'}}}}\n"


def write(folder: Path, rules: str, routing: str = "") -> Path:
    (folder / "router.yaml").write_text(
        POOLS + f"routing: {{default_pool: p, rules_file: r.yaml{routing}}}\n"
    )
    (folder / "r.yaml").write_text(rules)
    return folder / "router.yaml"


def test_check_passes_the_local_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(CONFIG)]) == 0
    assert "4 rules" in capsys.readouterr().out


def test_check_fails_on_a_failing_rule_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(
        tmp_path,
        "rules: [{name: r, when: {stream: true}, route_to: p}]\n"
        "tests: [{name: wrong on purpose, request: {stream: true}, expect: {rule: default}}]\n",
    )
    assert main(["check", "--config", str(config)]) == 1
    assert 'wrong on purpose: expected rule "default", got "r"' in capsys.readouterr().out


def test_check_reports_a_bad_file_with_its_place_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, "rules: [{name: r, when: {strem: true}, route_to: p}]\n")
    assert main(["check", "--config", str(config)]) == 2
    assert "r.yaml:1:33: rules[0].when.strem: is not a condition" in capsys.readouterr().err


def test_check_lints_what_is_allowed_but_not_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(
        tmp_path,
        """
rules:
  - {name: wide, when: {max_tokens_gte: 10}, route_to: p}
  - {name: narrow, when: {max_tokens_gte: 100, stream: true}, route_to: p}
  - {name: ghost, when: {model: nothing}, route_to: p}
  - {name: words, when: {any_keywords: [a, b]}, route_to: p}
  - {name: more-words, when: {any_keywords: [B, c]}, route_to: q}
""",
        routing=", fallback: {p: [q]}",
    )
    assert main(["check", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    for said in (
        "rule narrow is never reached: wide matches the same requests first",
        'rule ghost tests for model "nothing", which no pool serves',
        "fallback q of pool p serves none of its models",
        "rules words and more-words both match b",
        "no test covers rule wide",
    ):
        assert said in out


@pytest.mark.parametrize("knows", [False, True])
def test_check_warns_of_aliases_that_the_engines_must_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], knows: bool
) -> None:
    config = write(tmp_path, "rules: []\n")
    more = f"aliases: {{gpt-4o: m}}, engine_knows_aliases: {str(knows).lower()}, backends: {{b:"
    config.write_text(config.read_text().replace("backends: {b:", more))
    assert main(["check", "--config", str(config)]) == 0
    warned = "pool p leaves its aliases gpt-4o to its engines" in capsys.readouterr().out
    assert warned is knows


def test_decide_says_where_a_request_would_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}))
    arguments = ["decide", "--config", str(CONFIG), "--request", str(request)]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "default"
    assert main([*arguments, "--header", "X-Canary=yes"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "canary"


@pytest.mark.parametrize(
    ("body", "said"),
    [("[1]", "must be a JSON object, not list"), ("{", "not JSON"), (None, "cannot be read")],
)
def test_decide_refuses_what_is_no_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str | None, said: str
) -> None:
    request = tmp_path / "request.json"
    if body is not None:
        request.write_text(body)
    assert main(["decide", "--config", str(CONFIG), "--request", str(request)]) == 2
    assert said in capsys.readouterr().err


def test_explain_names_a_router_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "some-id", "--url", "http://127.0.0.1:1"]) == 2
    assert "does not answer" in capsys.readouterr().err


def lint_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: str) -> list[str]:
    config = write(tmp_path, f"rules:\n{rules}")
    assert main(["check", "--config", str(config)]) == 0
    found = [line.removeprefix("warning: ") for line in capsys.readouterr().out.splitlines()]
    return [line for line in found if "no test covers" not in line and not line.startswith(str(tmp_path))]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("{any: [{stream: true}, {client_id: a}]}", "{stream: true, max_tokens_gte: 5}"),
        ("{client_id: qa-*}", "{client_id: [qa-1, qa-2]}"),
        ("{header: {x: a*}}", "{header: {x: abc, y: b}}"),
        ("{any_keywords: stack}", "{any_keywords: [stack trace, full stack]}"),
        ("{not: {stream: true}}", "{not: {any: [{stream: true}, {has_tools: true}]}}"),
        ("{}", "{regex: x}"),
        ("{any: [{max_tokens_gte: 5}, {stream: true}]}", "{any: [{max_tokens_gte: 9}, {stream: true}]}"),
    ],
)
def test_a_rule_that_an_earlier_one_shadows_is_never_reached_and_the_other_way_round_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], earlier: str, later: str
) -> None:
    def pair(one: str, two: str) -> list[str]:
        rules = f"  - {{name: one, when: {one}, route_to: p}}\n  - {{name: two, when: {two}, route_to: p}}\n"
        return [line for line in lint_of(tmp_path, capsys, rules) if "never reached" in line]

    assert len(pair(earlier, later)) == 1
    assert pair(later, earlier) == []


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("{max_tokens_gte: 10, max_tokens_lte: 9}", "rule r never applies: its conditions contradict"),
        ("{all: [{stream: true}, {stream: false}]}", ""),
        ("{model: n}", "rule r never applies: p serves no model in its conditions"),
        ("{model: 'm*'}", ""),
        ("{path: /v1/chat}", "rule r tests for path /v1/chat, which is not an inference path"),
    ],
)
def test_a_rule_that_nothing_can_meet_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str, said: str
) -> None:
    found = lint_of(tmp_path, capsys, f"  - {{name: r, when: {when}, route_to: p}}\n")
    assert ("\n".join(found).startswith(said)) if said else found == []


def test_keywords_overlap_across_any_two_rules_and_inside_phrases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lint_of(
        tmp_path,
        capsys,
        "  - {name: a, when: {any_keywords: [trace]}, route_to: p}\n"
        "  - {name: b, when: {any_keywords: [other]}, route_to: q}\n"
        "  - {name: c, when: {any_keywords: [Stack Trace, new], stream: true}, route_to: q}\n",
    )
    assert found == ["rules a and c both match stack trace: the first takes the request"]


@pytest.mark.parametrize(
    "line",
    [
        '{"config_hash": "x", "request_id": "r"}',
        '{"config_hash": "x", "request_id": "r", "candidates": 5, "pool": "p", "time": 5, "path": 1}',
        '{"config_hash": "x", "request_id": "r", "candidates": [{"backend": 1}], "pool": "p", "time": "x"}',
        '{"config_hash": "x", "request_id": "r", "time": "x", "path": "/v1", "features": [1], "pool": "p"}',
    ],
)
def test_records_that_are_none_are_refused_by_explain_and_left_out_by_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\xff\xfe binary\n" + line.encode() + b'\n[1]\n"x"\n' + b"[" * 100_000 + b"\n\n")
    assert main(["explain", "r", "--log", str(log)]) == 2
    assert "is not a decision record" in capsys.readouterr().err
    config = write(tmp_path, "rules: []\n")
    assert main(["replay", "--config", str(config), str(log)]) == 2
    assert "has no decision record (5 other lines): nothing was compared" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.jsonl", "."])
def test_a_log_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    config = write(tmp_path, "rules: []\n")
    for arguments in (
        ["replay", "--config", str(config), str(tmp_path / name)],
        ["explain", "r", "--log", str(tmp_path / name)],
    ):
        assert main(arguments) == 2
        assert "cannot be read" in capsys.readouterr().err


def test_decide_refuses_a_path_that_does_not_exist_and_a_request_that_is_too_deep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"tools": ' + '[{"content":' * 400 + "1" + "}]" * 400 + "}")
    arguments = ["decide", "--config", str(CONFIG), "--request", str(request)]
    assert main([*arguments, "--path", "/v1/response"]) == 2
    assert "/v1/responses" in capsys.readouterr().err
    assert main([*arguments, "--path", "/v1/responses"]) == 2
    assert "JSON that cannot be parsed" in capsys.readouterr().err
    request.write_text("[" * 100_000)
    assert main(arguments) == 2
    assert "not JSON" in capsys.readouterr().err
