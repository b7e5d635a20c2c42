"""One timer serves all watchdogs: each ends its own attempt, at its own time."""

import asyncio
from time import perf_counter

import pytest

from router_service.pipeline.ends import End
from router_service.pipeline.watchdog import Alarms, Watchdog
from router_service.routing.rules import Timeouts


class Attempts:
    """Starts watchdogs and keeps how their attempts ended, in order."""

    def __init__(self) -> None:
        self.alarms = Alarms()
        self.ends: list[tuple[str, End]] = []
        self.watchdogs: dict[str, Watchdog] = {}
        self._ended = asyncio.Event()

    def start(self, name: str, total: float, first_token: float = 60.0, idle: float = 60.0) -> Watchdog:
        timeouts = Timeouts(60.0, first_token, idle, total)
        watchdog = Watchdog(self.alarms, timeouts, perf_counter() + total, streamed=True)
        self.watchdogs[name] = watchdog

        def ended(end: End, why: str) -> None:
            watchdog.stop()
            self.ends.append((name, end))
            self._ended.set()
            if name == "raises":
                raise RuntimeError(name)

        watchdog.start(ended)
        return watchdog

    async def until(self, count: int) -> None:
        """Wait until ``count`` attempts have ended."""
        async with asyncio.timeout(20):
            while len(self.ends) < count:
                self._ended.clear()
                await self._ended.wait()


def timers(attempts: Attempts) -> bool:
    return attempts.alarms._timer is not None


async def test_a_later_attempt_with_a_shorter_timeout_ends_first() -> None:
    attempts = Attempts()
    attempts.start("long", 0.5)
    attempts.start("short", 0.05)
    await attempts.until(2)
    assert attempts.ends == [("short", End.TOTAL_TIMEOUT), ("long", End.TOTAL_TIMEOUT)]
    assert not timers(attempts)


async def test_every_kind_of_timeout_is_found_by_the_same_timer() -> None:
    attempts = Attempts()
    attempts.start("no first token", 60, first_token=0.05)
    silent = attempts.start("silent", 60, idle=0.3)
    silent.first_token_at = silent.progress_at = perf_counter()
    attempts.start("total", 0.6)
    await attempts.until(3)
    assert attempts.ends == [
        ("no first token", End.FIRST_TOKEN_TIMEOUT),
        ("silent", End.IDLE_TIMEOUT),
        ("total", End.TOTAL_TIMEOUT),
    ]


async def test_a_stopped_watchdog_is_silent() -> None:
    attempts = Attempts()
    attempts.start("stopped", 0.05).stop()
    attempts.start("other", 0.1)
    await attempts.until(1)
    await asyncio.sleep(0.1)
    assert attempts.ends == [("other", End.TOTAL_TIMEOUT)]


@pytest.mark.parametrize("names", [("raises", "next"), ("next", "raises")])
async def test_an_error_at_one_end_does_not_keep_the_others_running(names: tuple[str, str]) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    attempts = Attempts()
    for name in names:
        attempts.start(name, 0.05)
    attempts.start("long", 0.3)
    await attempts.until(3)
    assert {name for name, _ in attempts.ends} == {*names, "long"}
    assert len(errors) == 1


async def test_many_attempts_with_equal_timeouts_need_one_timer() -> None:
    attempts = Attempts()
    first = attempts.start("first", 60)
    timer = attempts.alarms._timer
    for number in range(100):
        attempts.start(str(number), 60)
    assert attempts.alarms._timer is timer
    for watchdog in [first, *attempts.watchdogs.values()]:
        watchdog.stop()
    assert not attempts.alarms.running
