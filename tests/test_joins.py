"""Many who come back at once: the history is read once, and each is told what came after its own cursor, or why not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec import Raw

from realtime import joins
from realtime.brokers.memory import MemoryBroker
from realtime.config import Limits
from realtime.metrics import Metrics
from realtime.node import Node
from realtime.protocol import Cursor, Event, Placed, Subscribe, Subscribed, decode_message, encode
from realtime.session import Session
from realtime.stores.base import Snapshot
from realtime.stores.memory import MemoryStore
from tests.test_schedules import CHANNEL, Cluster
from tests.wait import until

pytestmark = pytest.mark.asyncio


class Histories(MemoryBroker):
    """Writes down from where a history was read."""

    def __init__(self, history: int = 1000) -> None:
        super().__init__(history=history)
        self.read: list[int] = []

    async def history(self, channel: str, after: Cursor) -> list[Placed]:
        self.read.append(after.offset)
        await asyncio.sleep(0)
        return await super().history(channel, after)


async def written(cluster: Cluster, number: int) -> str:
    """So many events, of a and b in turn; the epoch."""
    for nth in range(number):
        await cluster.write("ab"[nth % 2])
    await until(lambda: cluster._logged(str(number).encode()))
    return cluster.wire.log(CHANNEL).epoch


async def resumed(cluster: Cluster, cursors: Sequence[str], key: str | None = None) -> list[list[int] | str]:
    """All at once; of each the offsets that it was told, or the reason why it was shown items."""
    sessions = [Session(lambda: None) for _ in cursors]
    node = cluster.nodes[0]
    await node.subscribe(Session(lambda: None), Subscribe(0, CHANNEL))  # else each would wait to be the first
    subscribing = (
        node.subscribe(session, Subscribe(1, CHANNEL, key, cursor))
        for session, cursor in zip(sessions, cursors, strict=True)
    )
    await asyncio.gather(*subscribing)
    return [_told(session) for session in sessions]


def _told(session: Session) -> list[int] | str:
    answer, *events = [decode_message(encode(message, "json"), "json") for message in session.take()]
    assert isinstance(answer, Subscribed)
    if answer.items is not None:
        return answer.reason
    return [Cursor.parse(event.cursor).offset for event in events if isinstance(event, Event)]


async def test_of_one_cursor() -> None:
    broker = Histories()
    async with Cluster(brokers=[broker]) as cluster:
        epoch = await written(cluster, 6)
        assert await resumed(cluster, [f"v1.{epoch}.2"] * 100) == [[3, 4, 5, 6]] * 100
        assert broker.read == [2]


async def test_of_several_cursors() -> None:
    broker = Histories()
    async with Cluster(brokers=[broker]) as cluster:
        epoch = await written(cluster, 6)
        cursors = [f"v1.{epoch}.{offset}" for offset in (4, 1, 5, 6, 7)]
        assert await resumed(cluster, cursors) == [[5, 6], [2, 3, 4, 5, 6], [6], [], "future"]
        assert broker.read == [1]
        assert await resumed(cluster, cursors, "b") == [[6], [2, 4, 6], [6], [], "future"]


async def test_what_is_lost_to_one_is_not_to_another() -> None:
    broker = Histories(history=3)
    async with Cluster(brokers=[broker]) as cluster:
        epoch = await written(cluster, 6)
        cursors = [f"v1.{epoch}.{offset}" for offset in (0, 4, 2, 3)]
        assert await resumed(cluster, cursors) == ["trimmed", [5, 6], "trimmed", [4, 5, 6]]
        assert broker.read == [0, 2, 3]


async def test_another_epoch_is_asked_for_once() -> None:
    broker = Histories()
    async with Cluster(brokers=[broker]) as cluster:
        await written(cluster, 3)
        assert await resumed(cluster, ["v1.gone.1", "v1.gone.2", "v1.gone.3"]) == ["epoch"] * 3
        assert broker.read == [1]


async def test_a_history_serves_until_the_channel_has_passed_it() -> None:
    broker = Histories()
    async with Cluster(brokers=[broker]) as cluster:
        epoch = await written(cluster, 6)
        assert await resumed(cluster, [f"v1.{epoch}.2"]) == [[3, 4, 5, 6]]
        assert await resumed(cluster, [f"v1.{epoch}.4", f"v1.{epoch}.2"]) == [[5, 6], [3, 4, 5, 6]]
        assert broker.read == [2]
        assert await resumed(cluster, [f"v1.{epoch}.1"]) == [[2, 3, 4, 5, 6]]  # which it does not go back to
        assert broker.read == [2, 1]
        await cluster.write("a")
        await until(lambda: cluster._passed(cluster.nodes[0]))
        assert await resumed(cluster, [f"v1.{epoch}.4"]) == [[5, 6, 7]]
        assert broker.read == [2, 1, 4]


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Histories()
    async with Cluster(brokers=[broker]) as cluster:
        epoch = await written(cluster, 6)
        monkeypatch.setattr(joins, "MAX_KEPT", sum(event.size for event in list(cluster.wire.log(CHANNEL).events)[-2:]))
        for _ in range(2):
            assert await resumed(cluster, [f"v1.{epoch}.3"]) == [[4, 5, 6]]
        for _ in range(2):
            assert await resumed(cluster, [f"v1.{epoch}.4"]) == [[5, 6]]
        assert broker.read == [3, 3, 4]


class Readings(MemoryStore):
    """Writes down which keys were read."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.read: list[Sequence[str] | None] = []

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        self.read.append(keys)
        await asyncio.sleep(0)
        return await super().snapshot(collection, keys, after=after, limit=limit)


async def test_keys_of_one_channel_are_read_together() -> None:
    store = Readings()
    async with Cluster(store=store) as cluster:
        await written(cluster, 2)
        node, keys = cluster.nodes[0], ["b", "none", "a", "b"]
        await node.subscribe(Session(lambda: None), Subscribe(0, CHANNEL))
        sessions = [Session(lambda: None) for _ in keys]
        store.read.clear()
        await asyncio.gather(
            *(node.subscribe(session, Subscribe(1, CHANNEL, key)) for session, key in zip(sessions, keys, strict=True))
        )
        messages = [message for session in sessions for message in session.take()]
        shown = [dict(message.items or {}) for message in messages if isinstance(message, Subscribed)]
        assert shown == [{"b": Raw(b"2")}, {}, {"a": Raw(b"1")}, {"b": Raw(b"2")}]
        assert store.read == [["a", "b", "none"]]


class Slow(MemoryStore):
    """Reads snapshots when it is let; `most`: how many of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.let, self.inside, self.most = asyncio.Event(), 0, 0

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.let.wait()
        self.inside -= 1
        return await super().snapshot(collection, keys, after=after, limit=limit)


async def test_so_many_snapshots_of_a_store_are_read_at_once_and_the_others_wait() -> None:
    store, metrics = Slow(), Metrics()
    node = Node("n", MemoryBroker(), [store], metrics, Limits(snapshots=3))
    await node.open()
    sessions = [Session(lambda: None) for _ in range(10)]
    subscribing = [
        asyncio.ensure_future(node.subscribe(session, Subscribe(1, f"memory/c{number}")))
        for number, session in enumerate(sessions)
    ]
    await until(lambda: metrics.limited.labels("snapshots")._value.get() == 7)
    assert store.inside == 3
    store.let.set()
    await asyncio.gather(*subscribing)
    assert store.most == 3
    assert all(isinstance(session.take()[0], Subscribed) for session in sessions)
    for session in sessions:
        node.release(session)
    await node.close()
