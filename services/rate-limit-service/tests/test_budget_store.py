"""One suite for both budget stores, Redis and the fake: both must behave the same."""

import asyncio
import calendar
import time
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path

import pytest
import redis as redis_client

from harness.ports import free_port
from harness.servers.edges import running_redis
from harness.servers.guarded_redis import guarded_redis
from platform_contracts.redis_login import Keys, RedisLogin, read_authorities
from rate_limit_service.budgets import Limit
from rate_limit_service.main import main
from rate_limit_service.store import BudgetStore, MemoryBudgets, RedisBudgets, StoreUnavailable

TOKENS = Limit(tokens_per_minute=600)
BOTH = Limit(requests_per_minute=5, tokens_per_minute=600)


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.service)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[BudgetStore]:
    if request.param == "memory":
        yield MemoryBudgets()
        return
    port = request.getfixturevalue("redis_port")
    with redis_client.Redis(port=port) as client:
        client.flushall()
    opened = RedisBudgets(
        RedisLogin(f"redis://127.0.0.1:{port}/0"), timeout_seconds=5.0, reservation_seconds=60
    )
    yield opened
    await opened.close()


async def test_a_reservation_is_charged_at_once(store: BudgetStore) -> None:
    first = await store.reserve("a", "1", 400, TOKENS)
    assert first.admitted
    assert first.tokens is not None
    assert 200 <= first.tokens < 215
    second = await store.reserve("a", "2", 400, TOKENS)
    assert not second.admitted
    assert 15 < second.wait_seconds <= 20, "200 tokens are missing at 10 a second"


async def test_a_refusal_charges_nothing(store: BudgetStore) -> None:
    for number in range(5):
        assert not (await store.reserve("a", str(number), 601, TOKENS)).admitted
    assert (await store.reserve("a", "x", 600, TOKENS)).admitted


async def test_settling_gives_back_what_was_not_used(store: BudgetStore) -> None:
    await store.reserve("a", "1", 500, TOKENS)
    assert await store.settle("a", "1", 100, TOKENS) == 500
    after = await store.reserve("a", "2", 450, TOKENS)
    assert after.admitted


async def test_settling_twice_changes_nothing_the_second_time(store: BudgetStore) -> None:
    await store.reserve("a", "1", 500, TOKENS)
    assert await store.settle("a", "1", 500, TOKENS) == 500
    assert await store.settle("a", "1", 0, TOKENS) is None
    assert not (await store.reserve("a", "2", 400, TOKENS)).admitted


async def test_settling_what_was_never_reserved_changes_nothing(store: BudgetStore) -> None:
    assert await store.settle("a", "ghost", 500, TOKENS) is None
    assert (await store.reserve("a", "1", 600, TOKENS)).admitted


async def test_more_than_reserved_becomes_a_debt(store: BudgetStore) -> None:
    await store.reserve("a", "1", 100, TOKENS)
    await store.settle("a", "1", 1_200, TOKENS)
    refused = await store.reserve("a", "2", 1, TOKENS)
    assert not refused.admitted
    assert refused.wait_seconds > 50


async def test_clients_do_not_share(store: BudgetStore) -> None:
    assert (await store.reserve("a", "1", 600, TOKENS)).admitted
    assert (await store.reserve("b", "1", 600, TOKENS)).admitted


async def test_both_limits_or_neither_are_charged(store: BudgetStore) -> None:
    assert not (await store.reserve("a", "0", 700, BOTH)).admitted
    admitted = [(await store.reserve("a", str(number), 1, BOTH)).admitted for number in range(1, 7)]
    assert admitted == [True] * 5 + [False], "the refused request cost neither a request nor tokens"


async def test_a_hundred_parallel_questions_do_not_overshoot(store: BudgetStore) -> None:
    answers = await asyncio.gather(*(store.reserve("a", str(number), 100, TOKENS) for number in range(100)))
    assert sum(answer.admitted for answer in answers) == 6


DAY = Limit(tokens_per_minute=600, tokens_per_day=700)
TEAM = Limit(tokens_per_month=500, team="t", team_tokens_per_day=800)


async def test_a_day_is_a_window_that_does_not_refill(store: BudgetStore) -> None:
    assert (await store.reserve("a", "1", 600, DAY)).admitted
    await store.settle("a", "1", 550, DAY)
    refused = await store.reserve("a", "2", 160, DAY)
    assert refused.refused_by is not None
    assert refused.refused_by.name == "tokens_per_day"
    assert refused.left["tokens_per_day"] == 150
    assert 0 < refused.wait_seconds <= 86400
    assert refused.wait_seconds == pytest.approx(86400 - time.time() % 86400, abs=60)


async def test_the_budget_of_a_client_and_that_of_its_team_both_hold(store: BudgetStore) -> None:
    assert (await store.reserve("a", "1", 450, TEAM)).admitted
    own = await store.reserve("a", "2", 60, TEAM)
    assert own.refused_by is not None
    assert own.refused_by.name == "tokens_per_month"
    assert own.wait_seconds <= 31 * 86400
    other = await store.reserve("b", "1", 360, TEAM)
    assert other.refused_by is not None
    assert (other.refused_by.name, other.left["team_tokens_per_day"]) == ("team_tokens_per_day", 350)
    assert (await store.reserve("b", "2", 350, TEAM)).admitted, (
        "the refused one was not charged to the client"
    )
    await store.settle("b", "2", 0, TEAM)
    assert (await store.reserve("b", "3", 350, TEAM)).admitted, "a settlement corrects both"
    outside = Limit(tokens_per_month=500)
    assert (await store.reserve("t", "1", 500, outside)).admitted, (
        "a client with the team's name is not the team"
    )


async def test_a_window_that_ended_is_not_corrected_and_a_new_one_is_whole() -> None:
    clock = [calendar.timegm((2027, 12, 31, 23, 59, 50))]
    store = MemoryBudgets(clock=lambda: clock[0])
    limit = Limit(tokens_per_day=100, tokens_per_month=100)
    assert (await store.reserve("a", "1", 100, limit)).admitted
    refused = await store.reserve("a", "2", 1, limit)
    assert refused.wait_seconds == 10
    clock[0] += 10
    assert (await store.reserve("a", "3", 100, limit)).admitted
    assert await store.settle("a", "1", 0, limit) == 100
    assert not (await store.reserve("a", "4", 1, limit)).admitted


@pytest.mark.service
def test_the_script_knows_the_calendar(redis_port: int) -> None:
    text = resources.files("rate_limit_service").joinpath("budget.lua").read_text()
    functions = text[text.index("-- The days from") : text.index("local year, month = month_of(today)")]
    ask = functions + "local y, m = month_of(tonumber(ARGV[1])) return { y, m, first_day(y, m) }"
    with redis_client.Redis(port=redis_port) as client:
        for day in range(20_000, 60_000, 7):
            date = time.gmtime(day * 86400)
            first = calendar.timegm((date.tm_year, date.tm_mon, 1, 0, 0, 0)) // 86400
            assert client.eval(ask, 0, day) == [date.tm_year, date.tm_mon, first], day


@pytest.mark.service
async def test_a_reservation_from_before_an_upgrade_is_settled(redis_port: int) -> None:
    with redis_client.Redis(port=redis_port) as client:
        client.set("edge:{old}:reserved:1", "400", ex=60)
    store = RedisBudgets(
        RedisLogin(f"redis://127.0.0.1:{redis_port}/0"), timeout_seconds=5.0, reservation_seconds=60
    )
    assert await store.settle("old", "1", 10, Limit(tokens_per_minute=600, tokens_per_day=600)) == 400
    await store.close()


@pytest.mark.service
async def test_no_redis_is_said_so() -> None:
    store = RedisBudgets(
        RedisLogin(f"redis://127.0.0.1:{free_port()}/0"), timeout_seconds=0.5, reservation_seconds=60
    )
    with pytest.raises(StoreUnavailable):
        await store.reserve("a", "1", 1, TOKENS)
    await store.close()


@pytest.mark.service
async def test_a_sweep_deletes_full_buckets_and_old_reservations(redis_port: int) -> None:
    url = f"redis://127.0.0.1:{redis_port}/0"
    store = RedisBudgets(RedisLogin(url), timeout_seconds=5.0, reservation_seconds=0)
    patient = RedisBudgets(RedisLogin(url), timeout_seconds=5.0, reservation_seconds=60)
    await store.reserve("swept", "1", 100, BOTH)
    with redis_client.Redis(port=redis_port) as client:
        assert {client.ttl(key) for key in client.scan_iter("edge:{swept}*")} == {-1}
        assert await patient.sweep() == 0, "nothing is due"
        assert await store.sweep() == 0, "another service has just swept"
        client.hset("edge:{swept}:requests", "full", 1)
        client.delete("edge:sweep")
        await store.sweep()
        assert list(client.scan_iter("edge:{swept}*")) == [b"edge:{swept}:tokens"], "it is not full yet"
    await store.close()
    await patient.close()


@pytest.mark.service
@pytest.mark.parametrize(("policy", "kept"), [("volatile-lru", True), ("allkeys-lru", False)])
async def test_a_flood_of_session_pins_evicts_no_budget(tmp_path: Path, policy: str, kept: bool) -> None:
    """The second policy shows that the flood is larger than the memory."""
    with (
        running_redis(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", policy) as port,
        redis_client.Redis(port=port) as client,
    ):
        store = RedisBudgets(
            RedisLogin(f"redis://127.0.0.1:{port}/1"), timeout_seconds=5.0, reservation_seconds=60
        )
        for number in range(20):
            assert (await store.reserve(f"client-{number}", "1", 600, TOKENS)).admitted
        with client.pipeline(transaction=False) as flood:
            for number in range(60_000):
                flood.set(f"pin:{number}", "a" * 100, ex=1800)
            flood.execute()
        assert int(client.info("stats")["evicted_keys"]) > 1_000, "the attack must have happened"
        with redis_client.Redis(port=port, db=1) as budgets:
            left = len(list(budgets.scan_iter("edge:{*")))
        assert (left == 40) is kept
        if kept:
            assert await store.settle("client-0", "1", 600, TOKENS) == 600
            again = [await store.reserve(f"client-{number}", "2", 600, TOKENS) for number in range(20)]
            assert not any(standing.admitted for standing in again)
        await store.close()


@pytest.fixture(scope="module")
def locked_redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis that answers nobody without its password."""
    with running_redis(tmp_path_factory.mktemp("locked"), "--requirepass", "a long password") as port:
        yield port


@pytest.mark.service
async def test_a_store_with_a_password_is_asked_with_it(locked_redis_port: int) -> None:
    url = f"redis://127.0.0.1:{locked_redis_port}/1"
    outside = RedisBudgets(RedisLogin(url), timeout_seconds=5.0, reservation_seconds=60)
    with pytest.raises(StoreUnavailable, match="Authentication"):
        await outside.reserve("a", "1", 400, TOKENS)
    await outside.close()
    store = RedisBudgets(
        RedisLogin(url, password="a long password"), timeout_seconds=5.0, reservation_seconds=60
    )
    assert (await store.reserve("a", "1", 400, TOKENS)).admitted
    await store.close()


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("\n", "is empty")])
def test_a_password_file_that_gives_none_is_refused(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("budgets: {}\n")
    file = tmp_path / "password"
    if text is not None:
        file.write_text(text)
    words = ["serve", "--settings", str(tmp_path / "settings.yaml"), "--redis-password-file", str(file)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{file}: {said}" in error
    assert "write the password of Redis into it" in error


@pytest.mark.service
async def test_a_store_with_tls_and_a_user_is_asked_with_them(tmp_path: Path) -> None:
    with guarded_redis(tmp_path / "guarded") as guarded:
        store = RedisBudgets(guarded.login("budgets"), timeout_seconds=5.0, reservation_seconds=60)
        assert (await store.reserve("a", "1", 400, TOKENS)).admitted
        assert await store.settle("a", "1", 100, TOKENS) == 400
        await store.sweep()
        await store.close()
        keys = Keys("--redis-user", "--redis-password-file", "--redis-ca-file")
        stranger = read_authorities(guarded.other_authority())
        for login, said in (
            (guarded.login("nobody", keys=keys), '"nobody" of --redis-user'),
            (guarded.login("router", keys=keys), "permit it in the ACL of the user of --redis-user"),
            (guarded.login("budgets", authorities=stranger, keys=keys), "--redis-ca-file has the authority"),
        ):
            refused = RedisBudgets(login, timeout_seconds=5.0, reservation_seconds=60)
            with pytest.raises(StoreUnavailable) as caught:
                await refused.reserve("a", "2", 1, TOKENS)
            assert said in str(caught.value)
            assert guarded.password not in str(caught.value)
            await refused.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--redis-user", "budgets"], "--redis-user: has no effect without a password"),
        (["--redis-ca-file", "ca.crt"], "--redis-ca-file: has no effect without TLS"),
        (
            ["--redis-url", "rediss://h", "--redis-ca-file", "none.crt"],
            "none.crt: cannot be read: No such file or directory; --redis-ca-file needs",
        ),
    ],
)
def test_options_of_a_login_that_do_not_fit_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("budgets: {}\n")
    assert main(["serve", "--settings", str(tmp_path / "settings.yaml"), *words]) == 2
    assert said in capsys.readouterr().err
