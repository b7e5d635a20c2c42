"""Rules that refuse and models per client, on a real router: answers, lists, records, replay."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in
from router_service.cli.commands import main

pytestmark = [pytest.mark.service, pytest.mark.untimed]

ALIAS = "gpt-4o"
MESSAGES = [{"role": "user", "content": "hi"}]
RULES = [
    {
        "name": "no-long-answers",
        "when": {"max_tokens_gte": 5000},
        "refuse": {"status": 429, "message": "Answers over 5,000 tokens only at night."},
    }
]


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    with fleet_in(tmp_path_factory.mktemp("refusals")) as fleet:
        engine = fleet.add_engine("engine-a")
        pool = {"models": [MODEL], "aliases": {ALIAS: MODEL}, "backends": {"engine-a": {"url": engine.url}}}
        (fleet.folder / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
        yield fleet.add_router(
            wait_usable=1,
            pools={"general": pool},
            routing={"default_pool": "general", "rules_file": "rules.yaml"},
            clients={"models": {"by-alias": [ALIAS], "nobody": []}},
        )


def ask(
    router: RouterPart, client: str, path: str = "/v1/chat/completions", **fields: object
) -> httpx.Response:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4, **fields}
    return httpx.post(router.url + path, json=body, headers={"x-client-id": client}, timeout=30)


def test_a_rule_refuses_with_its_status_and_its_sentence(router: RouterPart) -> None:
    answer = ask(router, "anyone", max_tokens=5000)
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("refused_by_rule", RULES[0]["refuse"]["message"])
    assert answer.headers["x-route-rule"] == "no-long-answers"
    assert answer.headers["x-route-reason"] == "refused_by_rule"
    messages = ask(router, "anyone", "/v1/messages", max_tokens=5000).json()
    assert (messages["type"], messages["error"]["type"]) == ("error", "rate_limit_error")
    record = router.record(answer.headers["x-request-id"])
    assert (record["outcome"], record["reason"], record["attempts"]) == (
        "client_error",
        "refused_by_rule",
        [],
    )


def test_a_client_gets_only_the_models_of_its_list(router: RouterPart) -> None:
    assert ask(router, "by-alias", model=ALIAS).status_code == 200
    refused = ask(router, "by-alias")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "model_not_allowed"
    assert ask(router, "anyone").status_code == 200
    assert ask(router, "by-alias", model="unheard-of").status_code == 404


@pytest.mark.parametrize(
    ("client", "listed"), [("anyone", {MODEL, ALIAS}), ("by-alias", {ALIAS}), ("nobody", set())]
)
def test_the_models_page_lists_what_the_client_may_use(
    router: RouterPart, client: str, listed: set[str]
) -> None:
    headers = {"x-client-id": client}
    data = httpx.get(f"{router.url}/v1/models", headers=headers).json()["data"]
    assert {entry["id"] for entry in data} == listed
    for name in (MODEL, ALIAS):
        status = httpx.get(f"{router.url}/v1/models/{name}", headers=headers).status_code
        assert status == (200 if name in listed else 404)


def test_replay_counts_who_would_have_been_refused(
    router: RouterPart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [ask(router, client, max_tokens=64).headers["x-request-id"] for client in ("one", "two", "two")]
    records = [router.record(each) for each in ids]
    log = tmp_path / "yesterday.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    text = yaml.safe_load(Path(router.command[-1]).read_text())
    text["clients"] = {"models": {"two": []}}
    next_config = tmp_path / "router.yaml"
    next_config.write_text(yaml.safe_dump(text))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    assert main(["replay", "--config", str(next_config), str(log)]) == 1
    printed = capsys.readouterr().out
    assert "3 requests: 1 as before, 2 different" in printed
    assert "newly refused, by client: two 2" in printed
