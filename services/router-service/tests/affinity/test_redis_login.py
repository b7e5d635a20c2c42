"""Everything of the router that uses Redis logs in to a real one with TLS, an ACL user and an authority of its own."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import ConnectionPool, SSLConnection

from harness.servers.guarded_redis import GuardedRedis, guarded_redis
from harness.servers.router_fleet import RouterPart, fleet_in
from harness.waiting import eventually
from platform_contracts.redis_login import BadAuthorities, RedisLogin, read_authorities
from router_service.affinity.redis_hints import RedisHints
from router_service.affinity.redis_store import RedisStore
from router_service.config import BadConfig, load, redis_login
from router_service.ports import AffinityUnavailable
from router_service.rollout.leader import RedisLeader

POOLS = "pools: {p: {models: [m], backends: {a: {url: 'http://a'}}}}\nrouting: {default_pool: p}\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    with guarded_redis(tmp_path_factory.mktemp("guarded")) as made:
        yield made


@pytest.mark.service
async def test_pins_hints_and_the_lock_of_rollouts_use_the_user_and_the_authority(
    guarded: GuardedRedis,
) -> None:
    store = RedisStore(guarded.login(), timeout_seconds=5.0)
    assert await store.claim("session", "backend-a", 60) == "backend-a"
    assert await store.pin("session") == "backend-a"
    leader = RedisLeader(guarded.login(), 5.0, time.monotonic)
    assert await leader.keep(), leader.problem
    assert await leader.keep(), "renewed by its script"
    other = RedisLeader(guarded.login(), 5.0, time.monotonic)
    assert not await other.keep()
    await leader.close()
    assert await other.keep(), "the lock was released"
    await other.close()
    await store.close()


@pytest.mark.service
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("user", 'refused the user "nobody" of redis.user with the password of redis.password_file'),
        ("password", 'refused the user "router" of redis.user with the password of redis.password_file'),
        ("no user", r"refused the user default \(redis.user is not set\)"),
        ("authority", "check that redis.ca_file has the authority of the server's certificate"),
        ("system", "check that redis.ca_file has the authority of the server's certificate"),
        ("permission", "permit it in the ACL of the user of redis.user"),
    ],
)
async def test_a_login_that_fails_names_the_option_and_no_password(
    guarded: GuardedRedis, wrong: str, said: str
) -> None:
    logins = {
        "user": lambda: guarded.login("nobody"),
        "password": lambda: guarded.login(password="another secret"),
        "no user": lambda: guarded.login(""),
        "authority": lambda: guarded.login(authorities=read_authorities(guarded.other_authority())),
        "system": lambda: guarded.login(authorities=None),
        "permission": lambda: guarded.login("budgets"),
    }
    login = logins[wrong]()
    store = RedisStore(login, timeout_seconds=5.0)
    with pytest.raises(AffinityUnavailable, match=said) as caught:
        await store.claim("session", "backend-a", 60)
    leader = RedisLeader(login, 5.0, time.monotonic)
    assert not await leader.keep()
    for text in (str(caught.value), leader.problem, repr(login)):
        assert text is not None
        assert guarded.password not in text
        assert "another secret" not in text
    await store.close()
    await leader.close()


def store_is_up(router: RouterPart) -> bool:
    return bool(router.metric("router_affinity_store_up") == 1)


@pytest.mark.service
def test_two_routers_share_pins_and_hints_through_it(guarded: GuardedRedis, tmp_path: Path) -> None:
    section = {
        "url": guarded.url,
        "user": "router",
        "password_file": str(guarded.password_file),
        "ca_file": str(guarded.ca),
        "timeout_seconds": 0.5,
    }
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("engine-a")
        first, second = (fleet.add_router(redis=section) for _ in range(2))
        for router in (first, second):
            assert router.post(headers={"x-session-id": "s"}).status_code == 200
            eventually(partial(store_is_up, router), "pins are kept")
            assert guarded.password not in router.log.read_text()


@pytest.mark.service
async def test_hints_are_heard_through_it(guarded: GuardedRedis) -> None:
    heard: list[tuple[str, str]] = []
    speaker, listener = (RedisHints(guarded.login(), 5.0, time.monotonic) for _ in range(2))
    tasks = [
        asyncio.create_task(speaker.run(lambda *_: None)),
        asyncio.create_task(listener.run(lambda pool, backend: heard.append((pool, backend)))),
    ]
    deadline = time.monotonic() + 10
    while not heard and time.monotonic() < deadline:
        speaker.tell("general", str(time.monotonic_ns()))
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await speaker.close()
    await listener.close()
    assert heard


@pytest.mark.service
async def test_one_context_serves_all_connections(guarded: GuardedRedis) -> None:
    """A context for each connection would read the system's authorities each time, 25 ms on the event loop."""
    pool = RedisLogin(guarded.url, "router", guarded.password).pool(ConnectionPool)
    first, second = (pool.make_connection() for _ in range(2))  # type: ignore[no-untyped-call]
    assert isinstance(first, SSLConnection)
    assert isinstance(second, SSLConnection)
    assert first.ssl_context.get() is second.ssl_context.get()
    assert first.ssl_context.get().check_hostname


@pytest.mark.parametrize(
    ("redis", "said"),
    [
        (
            "{url: redis://h, user: router}",
            "3:31: redis.user: has no effect without a password; add password_file",
        ),
        (
            "{url: redis://h, ca_file: ca.crt}",
            "3:34: redis.ca_file: has no effect without TLS; begin url with rediss://",
        ),
        ('{url: rediss://h, password_file: p, user: ""}', "redis.user"),
    ],
)
def test_keys_that_do_not_fit_together_are_named(tmp_path: Path, redis: str, said: str) -> None:
    (tmp_path / "router.yaml").write_text(f"{POOLS}redis: {redis}\n")
    with pytest.raises(BadConfig) as caught:
        load(tmp_path / "router.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "contains no certificate of an authority"),
        (
            b"-----BEGIN CERTIFICATE-----\nbad\n-----END CERTIFICATE-----\n",
            "contains no certificate of an authority",
        ),
        (b"\xff\xfe", "is not a PEM file"),
    ],
)
def test_a_file_of_authorities_that_is_none_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(f"{POOLS}redis: {{url: rediss://h, ca_file: ca.crt}}\n")
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    section = load(path).values.redis
    assert section is not None
    with pytest.raises(BadConfig, match=f"ca.crt:1:1: {said}.*; redis.ca_file needs the PEM certificates"):
        redis_login(path, section)
    with pytest.raises(BadAuthorities):
        read_authorities(tmp_path / "ca.crt")
