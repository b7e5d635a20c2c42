"""Nothing that is gathered is lost, reordered or kept waiting."""

import asyncio

import pytest

from router_service.accounting.batch import MOST, Batch


async def test_items_are_done_in_order_at_the_latest_when_there_are_many() -> None:
    done: list[int] = []
    batch: Batch[int] = Batch(done.append)
    for number in range(MOST - 1):
        batch(number)
    assert done == []
    batch(MOST - 1)
    assert done == list(range(MOST))


async def test_few_items_are_done_soon_and_at_once_for_a_reader() -> None:
    done: asyncio.Queue[str] = asyncio.Queue()
    batch: Batch[str] = Batch(done.put_nowait)
    batch("a")
    batch.flush()
    assert done.get_nowait() == "a"
    batch("b")
    assert await asyncio.wait_for(done.get(), 10) == "b"


async def test_an_item_that_raises_is_lost_alone() -> None:
    done: asyncio.Queue[int] = asyncio.Queue()

    def do(number: int) -> None:
        if number == 1:
            raise ValueError("a mistake")
        done.put_nowait(number)

    batch: Batch[int] = Batch(do)
    for number in range(3):
        batch(number)
    with pytest.raises(ValueError, match="a mistake"):
        batch.flush()
    assert done.get_nowait() == 0
    assert await asyncio.wait_for(done.get(), 10) == 2
