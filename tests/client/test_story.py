"""What the client is for: a snapshot, then every change, whoever made it; reads, writes and their refusals."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw

from realtime.client import (
    Conflict,
    Event,
    NotFound,
    ProtocolError,
    Snapshot,
    Unavailable,
    UnknownChannel,
    connect,
)
from realtime.protocol import ANYHOW
from tests.client.conftest import Node
from tests.wait import until

pytestmark = pytest.mark.asyncio


async def test_a_watch_shows_what_is_and_what_happens(node: Node) -> None:
    async with connect(node.address) as live:
        await live.put("memory/rooms", "attic", 19.5, wait=True)
        watch = live.watch("memory/rooms")
        assert await anext(watch) == Snapshot("memory/rooms", None, {"attic": 19.5}, watch.cursor or "")
        await live.put("memory/rooms", "attic", {"temp": 20})
        await node.store.put("rooms", "cellar", Raw(b"12"), ANYHOW)  # behind the service's back
        await live.delete("memory/rooms", "attic")
        told = [await anext(watch) for _ in range(3)]
        assert [(each.op, each.key, each.value) for each in told if isinstance(each, Event)] == [
            ("put", "attic", {"temp": 20}),
            ("put", "cellar", 12),
            ("delete", "attic", None),
        ]
        assert [each.cursor for each in told][-1] == watch.cursor


async def test_one_key(node: Node) -> None:
    async with connect(node.address) as live, live.watch("memory/rooms", key="attic") as watch:
        assert await anext(watch) == Snapshot("memory/rooms", "attic", {}, watch.cursor or "")
        await live.put("memory/rooms", "cellar", 1)
        await live.put("memory/rooms", "attic", 2)
        event = await anext(watch)
        assert isinstance(event, Event)
        assert (event.key, event.value) == ("attic", 2)


async def test_a_watch_goes_on_from_a_cursor(node: Node) -> None:
    async with connect(node.address) as live:
        first = await live.put("memory/rooms", "attic", 1, wait=True)
        await live.put("memory/rooms", "attic", 2, wait=True)
        event = await anext(live.watch("memory/rooms", cursor=first.cursor))
        assert isinstance(event, Event)
        assert event.value == 2


async def test_reads_and_writes(node: Node) -> None:
    async with connect(node.address) as live:
        written = await live.put("memory/rooms", "a/b ü", {"temp": 1}, wait=True)
        item = await live.get("memory/rooms", "a/b ü")
        assert (item.key, item.value, item.etag) == ("a/b ü", {"temp": 1}, written.etag)
        assert (written.version is not None, written.cursor) == (True, item.cursor and written.cursor)
        await live.patch("memory/rooms", "a/b ü", {"unit": "C"}, if_match=item.etag)
        with pytest.raises(Conflict) as conflict:
            await live.put("memory/rooms", "a/b ü", 2, if_match=item.etag)
        assert conflict.value.current == {"temp": 1, "unit": "C"}
        await live.put("memory/rooms", "a/b ü", 2, if_match=conflict.value.etag)
        with pytest.raises(Conflict):
            await live.put("memory/rooms", "a/b ü", 3, if_absent=True)
        made = await live.post("memory/rooms", 4)
        assert (await live.get("memory/rooms", made.key)).value == 4
        await live.delete("memory/rooms", made.key)
        with pytest.raises(NotFound):
            await live.get("memory/rooms", made.key)


async def test_refusals_are_typed(node: Node) -> None:
    async with connect(node.address) as live:
        with pytest.raises(UnknownChannel):
            await live.get("oracle/rooms", "attic")
        with pytest.raises(UnknownChannel):
            await anext(live.watch("oracle/rooms"))
        with pytest.raises(ProtocolError):
            live.watch("rooms")
        with pytest.raises(ProtocolError):
            await live.get("memory/rooms", "\n")
    async with connect("http://127.0.0.1:1") as nowhere:
        with pytest.raises(Unavailable):
            await nowhere.get("memory/rooms", "attic")
    with pytest.raises(ValueError, match="address"):
        connect("localhost:8888")


async def test_a_replica_stays_current(node: Node) -> None:
    async with connect(node.address) as live:
        await live.put("memory/rooms", "attic", 1, wait=True)
        rooms = await live.replica("memory/rooms")
        assert dict(rooms) == {"attic": 1}
        await live.put("memory/rooms", "cellar", 2)
        await rooms.changed()
        assert dict(rooms) == {"attic": 1, "cellar": 2}
        waiting = asyncio.create_task(rooms.changed())
        await live.delete("memory/rooms", "attic")
        await waiting
        assert dict(rooms) == {"cellar": 2}


async def test_a_subscription_lasts_as_long_as_its_loop(node: Node) -> None:
    async with connect(node.address) as live:
        async for _ in live.watch("memory/rooms"):
            assert node.sessions == 1
            break
        await until(lambda: node.sessions == 0)
        task = asyncio.create_task(_follow(live.watch("memory/rooms")))
        await until(lambda: node.sessions == 1)
        task.cancel()
        await asyncio.wait([task])
        del task
        await until(lambda: node.sessions == 0)
        rooms = await live.replica("memory/rooms")
        assert node.sessions == 1
        await rooms.aclose()
        await until(lambda: node.sessions == 0)


async def _follow(watch: object) -> None:
    async for _ in watch:  # type: ignore[attr-defined]
        pass
