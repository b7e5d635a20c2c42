"""The models pages and probes: fields that engines report, names with slashes, HEAD and HTTP/1.0."""

import socket
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

ALIAS = "meta-llama/Llama-3.1-8B:latest@1"


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    with fleet_in(tmp_path_factory.mktemp("models")) as fleet:
        engine = fleet.add_engine("engine-a")
        pool = {"models": [MODEL], "aliases": {ALIAS: MODEL}, "backends": {"engine-a": {"url": engine.url}}}
        yield fleet.add_router(wait_usable=1, pools={"general": pool})


def test_the_list_has_the_engines_figures_for_the_model_and_its_alias(router) -> None:
    def listed() -> dict[str, dict[str, object]]:
        data = httpx.get(f"{router.url}/v1/models").json()["data"]
        return {entry["id"]: entry for entry in data}

    eventually(lambda: listed()[MODEL].get("max_model_len"), "the engine's card is read")
    found = listed()
    assert set(found) == {MODEL, ALIAS}
    for entry in found.values():
        assert entry["max_model_len"] == found[MODEL]["max_model_len"] > 0
        assert entry["created"] > 0
        assert entry["owned_by"] == "vllm"
        assert "root" not in entry


@pytest.mark.parametrize(
    "name", [ALIAS, quote(ALIAS, safe=""), ALIAS.replace("/", "%2f"), quote(ALIAS, safe="/")]
)
def test_a_listed_model_can_be_retrieved_however_its_name_is_encoded(router, name: str) -> None:
    answer = httpx.get(f"{router.url}/v1/models/{name}")
    assert answer.status_code == 200
    assert answer.json()["id"] == ALIAS
    assert httpx.get(f"{router.url}/v1/models/x%2F{name}").status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_use_head_and_http_1_0(router, path: str) -> None:
    assert httpx.head(router.url + path).status_code == 200
    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_offer_of_h2c_is_ignored(router) -> None:
    body = b'{"model":"%b","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}' % MODEL.encode()
    offer = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n%bcontent-length: %d\r\n\r\n" % (
        offer,
        len(body),
    )
    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as connection:
        connection.sendall(head + body)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
