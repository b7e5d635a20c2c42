"""What people run: check, decide, explain, replay, with their exit codes and their words."""

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
        "rule narrow is never reached: wide matches whatever it would",
        'rule ghost asks for model "nothing", which no pool serves',
        "fallback q of pool p serves none of its models",
        "rules words and more-words both look for b",
        "no test covers rule wide",
    ):
        assert said in out


def test_decide_says_where_a_request_would_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}))
    arguments = ["decide", "--config", str(CONFIG), "--request", str(request)]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "default"
    assert main([*arguments, "--header", "X-Canary=yes"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "canary"


@pytest.mark.parametrize(
    ("body", "said"), [("[1]", "is a JSON object, not list"), ("{", "not JSON"), (None, "cannot be read")]
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
