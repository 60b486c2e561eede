"""Two nodes on the real stores: what is written to one, or past both, is told at the other, from any cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from realtime.client import Event, Snapshot, Watch, connect
from realtime.embedded import Embedded
from realtime.verify.proxy import Proxy
from tests.cluster import Nodes, address, cluster
from tests.stores.pg import psql

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def nodes(servers: Embedded) -> AsyncIterator[Nodes]:
    async with cluster(servers, 2) as nodes:
        yield nodes


async def value(watch: Watch) -> object:
    event = await anext(watch)
    assert isinstance(event, Event)
    return event.value


async def test_every_store(nodes: Nodes) -> None:
    here, there = map(address, nodes)
    async with connect(here) as writer, connect(there) as reader:
        for channel, first, second in (
            ("redis/rooms", 1, 2),
            ("mongo/rooms", {"temp": 1}, {"temp": 2}),
            ("postgres/entries", {"slug": "a", "title": "A"}, {"slug": "a", "title": "B"}),
        ):
            await writer.put(channel, "7", first, wait=True)
            watch = reader.watch(channel, key="7")
            snapshot = await anext(watch)
            assert isinstance(snapshot, Snapshot)
            assert _within(first, snapshot.items["7"])
            await writer.put(channel, "7", second)
            assert _within(second, await value(watch))
            assert _within(second, (await reader.get(channel, "7")).value)


async def test_behind_its_back_and_across(nodes: Nodes) -> None:
    here, there = map(address, nodes)
    async with connect(here) as first, connect(there) as second:
        await first.put("postgres/entries", "1", {"slug": "a", "title": "A"}, wait=True)
        watch = first.watch("postgres/entries", key="1")
        await anext(watch)
        await psql(nodes.urls["postgres"], "UPDATE entries SET title = 'B' WHERE id = 1")
        assert _within({"title": "B"}, await value(watch))
        await psql(nodes.urls["postgres"], "UPDATE entries SET title = 'C' WHERE id = 1")
        assert _within({"title": "C"}, await value(second.watch("postgres/entries", key="1", cursor=watch.cursor)))


async def test_what_was_waited_for_can_be_read_anywhere(nodes: Nodes) -> None:
    here, there = map(address, nodes)
    async with connect(here) as writer, connect(there) as reader:
        rooms = await reader.replica("redis/rooms")
        for number in range(10):
            written = await writer.put("redis/rooms", "attic", number, wait=True)
            while rooms.cursor != written.cursor:
                await rooms.changed()
            assert rooms["attic"] == number


async def test_a_node_that_stops_behind_a_balancer_costs_nothing(nodes: Nodes) -> None:
    """Every committed row comes once, in order, from whichever node the one address leads to."""
    last = 300
    first, second = nodes
    async with (
        Proxy(("127.0.0.1", first.port)) as balancer,
        connect(f"http://127.0.0.1:{balancer.port}") as live,
        asyncio.TaskGroup() as tasks,
    ):
        watch = live.watch("postgres/entries", key="1", mode="all")
        await anext(watch)
        tasks.create_task(_count(nodes.urls["postgres"], last))
        titles: list[str] = []
        while not titles or titles[-1] != str(last):
            row = await value(watch)
            assert isinstance(row, dict)
            titles.append(row["title"])
            if len(titles) == 50:
                balancer.reset()
            if len(titles) == 100:
                balancer.upstream = ("127.0.0.1", second.port)
                await first.drain()
    assert titles == [str(number) for number in range(last + 1)]


async def _count(url: str, last: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("INSERT INTO entries (slug, title) VALUES ('a', '0')")
        for number in range(1, last + 1):
            await connection.execute("UPDATE entries SET title = $1 WHERE id = 1", str(number))
            await asyncio.sleep(0.003)
    finally:
        await connection.close()


def _within(part: object, whole: object) -> bool:
    return part.items() <= whole.items() if isinstance(part, dict) and isinstance(whole, dict) else part == whole
