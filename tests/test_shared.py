"""What many ask for at once is read once, and never for somebody who asked when its reading had begun."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec import Raw

from realtime.errors import StoreDown
from realtime.shared import Shared
from realtime.stores.base import Snapshot
from tests.wait import until

pytestmark = pytest.mark.asyncio


class Store:
    """A value that changes, and readings of it that end when they are told to."""

    def __init__(self) -> None:
        self.value = 0
        self.readings: list[asyncio.Future[None]] = []
        self.asks: list[Sequence[int]] = []
        self.snapshots = Shared(self.read)

    async def read(self, selection: tuple[str, str | None], asks: Sequence[int]) -> Snapshot:
        self.asks.append(asks)
        channel, _ = selection
        told = asyncio.get_running_loop().create_future()
        self.readings.append(told)
        value = self.value  # its moment is at the beginning, which is the worst for who comes later
        await told
        return Snapshot({channel: Raw(b"%d" % value)})

    async def ask(self, channel: str = "a", key: str | None = None, ask: int = 0) -> int:
        return int(bytes((await self.snapshots.read((channel, key), ask)).items[channel]))

    async def begun(self, count: int) -> None:
        await until(lambda: len(self.readings) == count)

    def end(self, number: int) -> None:
        self.readings[number].set_result(None)


async def test_many_at_once_are_one_reading() -> None:
    store = Store()
    asking = [asyncio.create_task(store.ask(ask=number)) for number in range(100)]
    await store.begun(1)
    store.end(0)
    assert await asyncio.gather(*asking) == [0] * 100
    assert store.asks == [list(range(100))]


async def test_who_asks_when_a_reading_has_begun_gets_the_next_one() -> None:
    """It began before they knew their position, so that it may lack what had passed by then."""
    store = Store()
    first = asyncio.create_task(store.ask())
    await store.begun(1)
    store.value = 1
    later = [asyncio.create_task(store.ask()) for _ in range(100)]
    await asyncio.sleep(0)
    store.end(0)
    await store.begun(2)
    store.value = 2
    latest = asyncio.create_task(store.ask())
    await asyncio.sleep(0)
    store.end(1)
    assert await first == 0
    assert await asyncio.gather(*later) == [1] * 100
    await store.begun(3)
    store.end(2)
    assert await latest == 2


async def test_other_selections_do_not_wait() -> None:
    store = Store()
    asking = [asyncio.create_task(store.ask(*selection)) for selection in (("a", None), ("a", "k"), ("b", None))]
    await store.begun(3)
    for number in range(3):
        store.end(number)
    await asyncio.gather(*asking)


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    store = Store()
    asking = [asyncio.create_task(store.ask()) for _ in range(3)]
    await store.begun(1)
    asking[0].cancel()
    await asyncio.wait(asking[:1])
    store.end(0)
    assert await asyncio.gather(*asking[1:]) == [0, 0]


async def test_what_all_have_given_up_is_not_read_to_its_end() -> None:
    store = Store()
    asking = [asyncio.create_task(store.ask()) for _ in range(3)]
    await store.begun(1)
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    await until(store.readings[0].cancelled)
    again = asyncio.create_task(store.ask())
    await store.begun(2)
    store.end(1)
    assert await again == 0


async def test_a_failure_is_everybody_s_and_not_the_next_one_s() -> None:
    store = Store()
    asking = [asyncio.create_task(store.ask()) for _ in range(3)]
    await store.begun(1)
    later = asyncio.create_task(store.ask())
    await asyncio.sleep(0)
    store.readings[0].set_exception(StoreDown("gone"))
    failed = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in failed] == [StoreDown] * 3
    await store.begun(2)
    store.end(1)
    assert await later == 0
