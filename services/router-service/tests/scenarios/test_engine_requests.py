"""Changes that the router makes to requests and responses: aliases, salts, metrics, controls and headers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in
from harness.servers.scripted_engine import ScriptedEngine, scripted_engine

pytestmark = [pytest.mark.service, pytest.mark.untimed]

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
METRICS = b',"metrics":{"queue_time_ms":1.0,"time_to_first_token_ms":2.0}'
BODY = b'{ "x":1.50, "model" : "%b","messages":[{"role":"user","content":"\\"model\\":\\"gpt-4o\\""}] }'


def plain(body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (headers, len(body)) + body


def answered(extra: bytes = b"", size: int = 0) -> bytes:
    return b'{"model":"%b","usage":{"prompt_tokens":5,"completion_tokens":1}%b,"pad":"%b"}' % (
        MODEL.encode(), extra, b"x" * size,
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def router(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    folder: Path = tmp_path_factory.mktemp("engine-requests")
    backend = {"url": engine.url}
    rule = {
        "name": "urgent",
        "when": {"client_id": "vip"},
        "route_to": "general",
        "engine_fields": {"priority": -5},
    }
    with fleet_in(folder) as fleet:
        (folder / "rules.yaml").write_text(json.dumps({"rules": [rule]}))
        yield fleet.add_router(
            wait_usable=1,
            pools={
                "general": {
                    "models": [MODEL],
                    "aliases": {"gpt-4o": MODEL},
                    "backends": {"engine-a": backend},
                },
                "knows": {
                    "models": ["other"],
                    "aliases": {"o1": "other"},
                    "engine_knows_aliases": True,
                    "backends": {"engine-b": backend},
                },
            },
            routing={"default_pool": "general", "rules_file": "rules.yaml"},
            privacy={"share_prefixes_between": ["team-*"], "show_engine_metrics_to": ["operator"]},
        )


def ask(
    router: RouterPart, body: bytes, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        router.url + path, content=body, headers={"content-type": "application/json", **named}, timeout=20
    )


def sent(engine: ScriptedEngine) -> bytes:
    return engine.requests[-1][1]


def test_the_engine_gets_the_models_own_name_and_the_client_its_alias(router, engine) -> None:
    engine.script = [plain(answered())]
    answer = ask(router, BODY % b"gpt-4o")
    assert sent(engine) == BODY % MODEL.encode()
    assert answer.json()["model"] == "gpt-4o"
    assert answer.text == answered().decode().replace(MODEL, "gpt-4o")
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_stream_and_a_body_too_large_to_hold_carry_the_alias_too(router, engine) -> None:
    chunk = (
        b'data: {"model":"%b","choices":[{"index":0,"delta":{"content":"\\"model\\":\\"m\\""}}]}\n\n'
        % MODEL.encode()
    )
    engine.script = [
        SSE + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (chunk, chunk, DONE)) + b"0\r\n\r\n"
    ]
    request = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "x"}]})
    told = chunk.replace(MODEL.encode(), b"gpt-4o")
    assert ask(router, request.encode()).content == told + told + DONE
    engine.script = [plain(answered(size=2_000_000))]
    assert ask(router, BODY % b"gpt-4o").content == answered(size=2_000_000).replace(
        MODEL.encode(), b"gpt-4o"
    )


@pytest.mark.parametrize("model", [MODEL, "o1", "other"])
def test_every_byte_passes_where_nothing_is_the_routers_to_change(router, engine, model: str) -> None:
    engine.script = [plain(answered(METRICS))]
    answer = ask(router, BODY % model.encode())
    assert sent(engine) == BODY % model.encode()
    assert answer.content == answered(METRICS)


def salt(engine: ScriptedEngine) -> str:
    return json.loads(sent(engine))["cache_salt"]


def test_each_client_has_a_salt_of_its_own_unless_it_shares(router, engine) -> None:
    engine.script = [plain(answered())]
    found = {}
    for client in ("a", "b", "team-1", "team-2"):
        ask(router, BODY % MODEL.encode(), x_client_id=client)
        found[client] = salt(engine)
        assert sent(engine).startswith((BODY % MODEL.encode())[:-1])
    assert len(set(found.values())) == 3
    assert found["team-1"] == found["team-2"]
    assert all(len(value) == 32 for value in found.values())


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/score"]
)
@pytest.mark.parametrize("own", ['"guess"', "null", '"\\u0061"', "5"])
def test_a_clients_own_salt_is_replaced(router, engine, path: str, own: str) -> None:
    engine.script = [plain(answered())]
    ask(router, b'{"model":"%b","cache_salt":%b}' % (MODEL.encode(), own.encode()), path, x_client_id="a")
    replaced = salt(engine)
    ask(router, BODY % MODEL.encode(), x_client_id="a")
    assert replaced == salt(engine)


def test_a_path_that_computes_nothing_gets_no_salt(router, engine) -> None:
    engine.script = [plain(b'{"count":1}')]
    body = b'{"model":"%b","prompt":"x"}' % MODEL.encode()
    ask(router, body, "/tokenize", x_client_id="a")
    assert sent(engine) == body


@pytest.mark.parametrize("size", [0, 2_000_000])
def test_the_engines_measurements_are_for_those_who_may_see_them(router, engine, size: int) -> None:
    engine.script = [plain(answered(METRICS, size))]
    assert ask(router, BODY % MODEL.encode(), x_client_id="a").content == answered(size=size)
    answer = ask(router, BODY % MODEL.encode(), x_client_id="operator")
    assert answer.content == answered(METRICS, size)


def test_measurements_in_a_stream_are_left_out_and_still_read(router, engine) -> None:
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}%b}\n\n'
    parts = (chunk, usage % METRICS, DONE)
    engine.script = [SSE + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"]
    request = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "messages": []}
    answer = ask(router, json.dumps(request).encode(), x_client_id="a")
    assert answer.content == chunk + usage % b"" + DONE
    ledger = router.record(answer.headers["x-request-id"])["ttft_ledger_ms"]
    assert ledger["engine_queue"] == 1.0


@pytest.mark.parametrize("name", ["priority", "request_id", "kv_transfer_params", "data_parallel_rank"])
def test_engine_controls_are_refused_from_clients_and_set_by_rules(router, engine, name: str) -> None:
    body = json.dumps({"model": MODEL, "messages": [], name: {"a": 1} if "kv" in name else 3}).encode()
    answer = ask(router, body)
    assert answer.status_code == 400
    error: dict[str, Any] = answer.json()["error"]
    assert (error["code"], error["param"]) == ("engine_control", name)
    engine.script = [plain(answered())]
    ask(router, BODY % MODEL.encode(), x_client_id="vip")
    assert json.loads(sent(engine))["priority"] == -5


def test_headers_pass_by_a_list_in_both_directions(router, engine) -> None:
    engine.script = [
        plain(answered(), b"x-engine-secret: 1\r\nset-cookie: a=b\r\ncache-control: no-store\r\n")
    ]
    answer = ask(
        router, BODY % MODEL.encode(), authorization="Bearer k", x_data_parallel_rank="1", x_any="1",
        anthropic_version="2023-06-01", cookie="c=1",
    )  # fmt: skip
    head = engine.requests[-1][0].lower()
    assert b"anthropic-version: 2023-06-01" in head
    for name in (b"authorization", b"x-data-parallel-rank", b"x-any", b"cookie", b"x-client-id"):
        assert b"\r\n" + name + b":" not in head
    assert answer.headers["cache-control"] == "no-store"
    assert not {"x-engine-secret", "set-cookie"} & set(answer.headers)
