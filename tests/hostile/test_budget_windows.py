"""Attack: streams that begin before the end of a day and end after it, to be charged for neither day."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from harness.attacks.streams import WORDS
from harness.servers.edges import CHAT
from harness.stacks.attacked import WINDOW_BUDGET, Attacked
from harness.waiting import eventually

pytestmark = pytest.mark.service

STREAMS = 5
COMPLETION = 600
CLIENT = "windowed"
LONG_STREAM = {**WORDS, "model": "m", "stream": True, "ignore_eos": True, "max_tokens": COMPLETION}


def test_a_day_that_ends_during_streams_gives_back_nothing(attacked: Attacked) -> None:
    """Two days' budgets at most: what began yesterday is charged to yesterday, and today has its own whole budget."""
    attacked.redis("flushall")
    over = threading.Event()
    with ThreadPoolExecutor(STREAMS) as threads:
        began = [threads.submit(stream, attacked, over) for _ in range(STREAMS)]
        eventually(lambda: len(reservations(attacked)) == STREAMS, "all are reserved")
        yesterday = attacked.spent_today(CLIENT)
        assert STREAMS * COMPLETION < yesterday <= WINDOW_BUDGET
        end_the_day(attacked)
        assert attacked.post(CLIENT, {**LONG_STREAM, "stream": False, "max_tokens": 1}).status_code == 200
        eventually(lambda: len(reservations(attacked)) == STREAMS, "the short request is settled")
        today = attacked.spent_today(CLIENT)
        assert 0 < today < COMPLETION, "a new day began with an unused budget"
        over.set()
        ids = [one.result(30) for one in began]
    records = [attacked.record(request) for request in ids]
    assert {record["outcome"] for record in records} == {"cancelled"}, "the attack must have happened"
    eventually(lambda: not reservations(attacked), "all are settled")
    assert attacked.spent_today(CLIENT) == today, "the unused part of yesterday is not given to today"
    statuses = asyncio.run(together(attacked))
    assert {200, 429} == set(statuses), "more was sent than a budget allows"
    assert attacked.spent_today(CLIENT) <= WINDOW_BUDGET
    print(f"yesterday {yesterday} reserved, today {attacked.spent_today(CLIENT)} of {WINDOW_BUDGET}")


def stream(stack: Attacked, over: threading.Event) -> str:
    """Read a stream slowly until ``over``, leave it, and return the request's id."""
    url, headers = stack.edge.url + CHAT, stack.headers(CLIENT)
    with httpx.stream("POST", url, json=LONG_STREAM, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        for _ in answer.iter_lines():
            if over.is_set():
                break
        return str(answer.headers["x-request-id"])


async def together(stack: Attacked) -> list[int]:
    """Send requests that use their whole reservations, for more than a budget; return the statuses."""
    body = {**LONG_STREAM, "stream": False, "max_tokens": 300}
    async with httpx.AsyncClient(timeout=60) as client:

        async def send() -> int:
            answer = await client.post(stack.edge.url + CHAT, json=body, headers=stack.headers(CLIENT))
            return answer.status_code

        return list(await asyncio.gather(*(send() for _ in range(2 * WINDOW_BUDGET // 300))))


def reservations(stack: Attacked) -> list[str]:
    return stack.redis("keys", f"edge:{{{CLIENT}}}:reserved:*").split()


def end_the_day(stack: Attacked) -> None:
    """Make today's counter and reservations yesterday's: what Redis has after midnight."""
    key = f"edge:{{{CLIENT}}}:day"
    stack.redis("hincrby", key, "window", "-1")
    for one in reservations(stack):
        amount, day, month = stack.redis("get", one).split(":")
        stack.redis("set", one, f"{amount}:{int(day) - 1}:{month}")
