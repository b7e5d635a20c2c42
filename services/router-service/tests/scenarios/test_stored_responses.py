"""Stored responses: any router finds the backend that has one; it is returned, continued and cancelled there.

Two engine simulators, two routers on one Redis, and an edge in front of both.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from harness.servers.edges import CLIENT_KEY, LOAD_KEY, WIDE, Edge, running_edge
from harness.servers.router_fleet import MODEL, Fleet, RouterPart, fleet_in
from harness.servers.scripted_engine import scripted_engine
from harness.waiting import eventually
from router_service.affinity.redis_store import KEY_PREFIX
from router_service.routing.hashing import digest

pytestmark = pytest.mark.service

ROUNDS = 6
"""Responses that a test makes: with two backends, all of them go to one by chance once in 32 times."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_in(tmp_path_factory.mktemp("stored")) as fleet:
        fleet.add_redis()
        for name in ("one", "two"):
            fleet.add_engine(name, "--store-responses")
        for _ in range(2):
            fleet.add_router(pools=pools(fleet))
        yield fleet


def pools(fleet: Fleet) -> dict[str, Any]:
    backends = {name: {"url": engine.url} for name, engine in fleet.engines.items()}
    return {"general": {"policy": "round_robin", "models": [MODEL], "backends": backends}}


@pytest.fixture
def narrow(fleet: Fleet) -> RouterPart:
    """A router that sends one request at a time to each backend."""
    router = fleet.add_router(pools=pools(fleet), limits={"max_in_flight_per_backend": 1})
    fleet.routers.remove(router)
    return router


@pytest.fixture(scope="module")
def edge(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    settings = {
        "router": {"replicas": [{"host": "127.0.0.1", "port": each.port} for each in fleet.routers]},
        "limits": {"default": WIDE},
    }
    with running_edge(tmp_path_factory.mktemp("edge"), fleet.routers[0].port, settings) as edge:
        yield edge


def create(router: RouterPart, client: str = "a", **more: Any) -> httpx.Response:
    body = {"model": MODEL, "input": "Tell me about Paris.", "max_output_tokens": 3, **more}
    return httpx.post(f"{router.url}/v1/responses", json=body, headers={"x-client-id": client}, timeout=30)


def stored(router: RouterPart, response_id: str, client: str = "a", **more: Any) -> httpx.Response:
    """Return the stored response, once Redis has its backend: the router writes it off the request's path."""
    url = f"{router.url}/v1/responses/{response_id}"

    def found() -> httpx.Response | None:
        answer = httpx.get(url, headers={"x-client-id": client}, timeout=30, **more)
        return answer if answer.status_code == 200 else None

    answer: httpx.Response = eventually(found, "the response is found")
    return answer


def test_either_router_returns_a_response_from_the_backend_that_has_it(fleet: Fleet) -> None:
    first, second = fleet.routers
    used = set()
    for _ in range(ROUNDS):
        made = create(first)
        used.add(made.headers["x-route-backend"])
        for router in (second, first):
            again = stored(router, made.json()["id"])
            assert again.headers["x-route-backend"] == made.headers["x-route-backend"]
            assert {**again.json(), "metrics": None} == {**made.json(), "metrics": None}
            record = router.record(again.headers["x-request-id"])
            assert (record["path"], record["reason"]) == ("/v1/responses/{id}", "session_affinity")
            assert record["affinity"] == {"state": "kept", "source": "path:response_id"}
            assert record["outcome"] == "ok"
            assert record["tokens"]["completion"] is None, "they were counted when it was made"
    assert used == {"one", "two"}


def test_a_streamed_response_is_found_too(fleet: Fleet) -> None:
    first, second = fleet.routers
    made = create(first, stream=True)
    assert "response.completed" in made.text
    response_id = made.text.split('"id":"resp_')[1].split('"')[0]
    again = stored(second, f"resp_{response_id}")
    assert again.headers["x-route-backend"] == made.headers["x-route-backend"]


def test_the_next_request_of_a_conversation_goes_to_the_backend_that_has_the_previous_response(
    fleet: Fleet,
) -> None:
    first, second = fleet.routers
    for _ in range(ROUNDS):
        made = create(first)
        stored(second, made.json()["id"])
        following = create(second, previous_response_id=made.json()["id"])
        assert following.status_code == 200, following.text
        assert following.headers["x-route-backend"] == made.headers["x-route-backend"]
        assert following.json()["previous_response_id"] == made.json()["id"]
        record = second.record(following.headers["x-request-id"])
        assert record["affinity"] == {"state": "kept", "source": "body:previous_response_id"}
        assert record["snapshot"]["home"] == "general"


def test_a_conversation_whose_backend_is_full_is_told_to_try_again(fleet: Fleet, narrow: RouterPart) -> None:
    made = create(fleet.routers[0])
    stored(narrow, made.json()["id"])
    home = made.headers["x-route-backend"]
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(create, narrow, max_output_tokens=1000, ignore_eos=True) for _ in range(2)]
        eventually(lambda: narrow.metric("router_in_flight") == 2, "both backends are full")
        refused = create(narrow, previous_response_id=made.json()["id"])
        assert not any(future.done() for future in running), "both were full meanwhile"
        assert all(future.result().status_code == 200 for future in running)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "response_backend_busy")
    assert refused.headers["retry-after"] == "1"
    record = narrow.record(refused.headers["x-request-id"])
    assert record["outcome"] == "refused"
    assert [(each["backend"], each["rejected_because"]) for each in record["candidates"]] == [
        (home, "at_limit")
    ]
    following = create(narrow, previous_response_id=made.json()["id"])
    assert (following.status_code, following.headers["x-route-backend"]) == (200, home)


def test_a_background_response_is_cancelled_where_it_runs(fleet: Fleet) -> None:
    first, second = fleet.routers
    headers = {"x-client-id": "a"}
    made = create(first, background=True, max_output_tokens=6000, ignore_eos=True)
    assert made.json()["status"] == "queued"
    response_id = made.json()["id"]
    stored(second, response_id)
    engine = fleet.engines[made.headers["x-route-backend"]]
    eventually(lambda: engine.under_way() == 1, "the engine works on it")
    ended = httpx.post(f"{second.url}/v1/responses/{response_id}/cancel", headers=headers)
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    eventually(lambda: engine.under_way() == 0, "the engine has stopped")
    assert stored(first, response_id).json()["status"] == "cancelled"
    again = httpx.post(f"{first.url}/v1/responses/{response_id}/cancel", headers=headers)
    assert (again.status_code, again.json()["error"]["param"]) == (400, "response_id")


def test_the_tokens_of_a_background_response_are_counted_once(fleet: Fleet) -> None:
    first, second = fleet.routers
    made = create(first, background=True)
    assert made.json()["status"] == "queued"
    assert first.record(made.headers["x-request-id"])["tokens"]["completion"] is None

    def ended() -> httpx.Response | None:
        answer = stored(second, made.json()["id"])
        return answer if answer.json()["usage"] else None

    found = eventually(ended, "the response is complete")
    used = found.json()["usage"]
    tokens = second.record(found.headers["x-request-id"])["tokens"]
    assert (tokens["prompt"], tokens["completion"]) == (used["input_tokens"], used["output_tokens"])
    assert tokens["completion"] == 3
    again = stored(second, made.json()["id"])
    assert second.record(again.headers["x-request-id"])["tokens"]["completion"] is None


@pytest.mark.parametrize("suffix", ["", "/cancel"])
def test_an_unknown_response_is_404_in_openais_form(fleet: Fleet, suffix: str) -> None:
    made = create(fleet.routers[0])
    stored(fleet.routers[1], made.json()["id"])
    method = "POST" if suffix else "GET"
    for response_id, client in (("resp_unknown", "a"), (made.json()["id"], "another")):
        url = f"{fleet.routers[1].url}/v1/responses/{response_id}{suffix}"
        answer = httpx.request(method, url, headers={"x-client-id": client})
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "response_id")
        assert error["message"] == f"Response with id '{response_id}' not found."


def test_other_methods_are_405(fleet: Fleet) -> None:
    for path, method, allowed in (("", "DELETE", "GET"), ("", "POST", "GET"), ("/cancel", "GET", "POST")):
        answer = httpx.request(method, f"{fleet.routers[0].url}/v1/responses/resp_a{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_no_response_id_is_logged_counted_or_stored(fleet: Fleet) -> None:
    first, second = fleet.routers
    made = create(first)
    response_id = made.json()["id"]
    stored(second, response_id)
    create(second, previous_response_id=response_id)
    missing = "resp_canary00000000"
    httpx.get(f"{second.url}/v1/responses/{missing}")
    httpx.post(f"{second.url}/v1/responses/{missing}/cancel")
    for router in fleet.routers:
        seen = "\n".join([router.exposition(), *router.log_lines()])
        assert "/v1/responses" in seen
        assert response_id not in seen
        assert missing not in seen
    assert fleet.redis is not None
    client = redis.Redis(port=fleet.redis.port, decode_responses=True)
    keys = list(client.scan_iter())
    assert keys
    assert not [key for key in keys if response_id in key or "resp_" in key]
    assert all(client.ttl(key) > 0 for key in keys), "entries expire"


def test_an_engine_that_keeps_no_response_gets_no_entry(fleet: Fleet) -> None:
    """The agent of one of two backends reports what vLLM does by default."""
    assert fleet.redis is not None
    entries = redis.Redis(port=fleet.redis.port)

    def has_entry(made: httpx.Response) -> bool:
        return bool(entries.exists(KEY_PREFIX + digest("response", "a", made.json()["id"])))

    with scripted_engine() as agent:
        said = b'{"state":"working","engine":{"stores_responses":false}}'
        agent.healthy = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said)
        backends = pools(fleet)["general"]["backends"]
        backends["one"] = {**backends["one"], "health_url": f"{agent.url}/readyz"}
        router = fleet.add_router(pools={"general": {**pools(fleet)["general"], "backends": backends}})
        fleet.routers.remove(router)
        eventually(lambda: router.usable() == 2, "both backends are ready")
        made = [create(router) for _ in range(2 * ROUNDS)]
        kept = [each for each in made if each.headers["x-route-backend"] == "two"]
        forgotten = next(each for each in made if each.headers["x-route-backend"] == "one")
        assert made.index(forgotten) < made.index(kept[-1])
        eventually(lambda: has_entry(kept[-1]), "the router writes in the order of the answers")
        assert not has_entry(forgotten)
        url = f"{router.url}/v1/responses/{forgotten.json()['id']}"
        missing = httpx.get(url, headers={"x-client-id": "a"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "response_not_found")


def test_through_the_edge(fleet: Fleet, edge: Edge) -> None:
    body = {"model": MODEL, "input": "hi", "max_output_tokens": 2}
    made = httpx.post(f"{edge.url}/v1/responses", json=body, headers=edge.headers(), timeout=30)
    response_id = made.json()["id"]

    def read(key: str = CLIENT_KEY) -> httpx.Response:
        return httpx.get(f"{edge.url}/v1/responses/{response_id}", headers=edge.headers(key), timeout=30)

    found = eventually(lambda: r if (r := read()).status_code == 200 else None, "the response is found")
    assert found.json()["id"] == response_id
    assert "x-route-tokens" not in found.headers
    assert read(LOAD_KEY).status_code == 404, "another client does not find it"
    cancelled = httpx.post(
        f"{edge.url}/v1/responses/{response_id}/cancel", headers=edge.headers(), timeout=30
    )
    assert (cancelled.status_code, cancelled.json()["error"]["param"]) == (400, "response_id")
    log = eventually(lambda: t if "/cancel" in (t := edge.log.read_text()) else None, "the edge logs it")
    assert response_id not in log
    assert '"/v1/responses/{id}/cancel"' in log


def test_a_response_is_lost_with_its_backend(fleet: Fleet) -> None:
    """The last test: it removes a backend."""
    router = fleet.routers[1]
    made = [create(router) for _ in range(ROUNDS)]
    lost = next(each.json()["id"] for each in made if each.headers["x-route-backend"] == "one")
    stored(router, lost)
    pool = {"models": [MODEL], "backends": {"two": {"url": fleet.engines["two"].url}}}
    fleet.rewrite(router, pools={"general": pool})
    eventually(lambda: router.usable() == 1, "the backend is gone")
    began = time.monotonic()
    answer = httpx.get(f"{router.url}/v1/responses/{lost}", headers={"x-client-id": "a"})
    assert time.monotonic() - began < 5
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_lost")
    following = create(router, previous_response_id=lost)
    assert (following.status_code, following.json()["error"]["code"]) == (404, "response_lost")
