"""A feed between a store and a broker in memory: what one odd change or one short outage must not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
from msgspec import Raw

from realtime.brokers.memory import MemoryBroker, Wire
from realtime.errors import StoreDown
from realtime.feeds import Feed
from realtime.metrics import Metrics
from realtime.protocol import ANYHOW, Change, split_channel
from realtime.stores.base import Batch, Lost
from realtime.stores.memory import MemoryStore
from tests.wait import until

pytestmark = pytest.mark.asyncio


class StrictBroker(MemoryBroker):
    """Takes no name that is not a channel's, as the Redis broker."""

    async def publish(self, channel: str, changes: Sequence[Change]) -> None:
        split_channel(channel)
        await super().publish(channel, changes)


class Breaking(MemoryStore):
    """Breaks when told to; then fails to come up, once."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.broken = asyncio.Event()
        self.tries = 0

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        self.tries += 1
        if self.tries == 2:
            raise StoreDown("not up yet")
        async with aclosing(super().changes(mark)) as changes:
            async for found in changes:
                yield found
                if self.tries == 1:
                    await self.broken.wait()
                    raise StoreDown("broke")


class Looking(MemoryStore):
    """Finds its changes by looking."""

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        async with aclosing(super().changes(mark)) as changes:
            async for found in changes:
                if isinstance(found, Batch):
                    found.reconciled = {"sweep": len(found.changes)}
                yield found


class Defective(MemoryStore):
    """Trips over the same change again and again."""

    tries = 0

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        async with aclosing(super().changes(mark)) as changes:
            async for found in changes:
                if isinstance(found, Batch):
                    self.tries += 1
                    raise ZeroDivisionError
                yield found


@asynccontextmanager
async def fed(store: MemoryStore) -> AsyncIterator[tuple[Feed, Wire]]:
    broker = StrictBroker()
    feed = Feed(store, broker, Metrics())
    await broker.open(lambda *_: None, lambda: None, lambda: None)
    feed.open()
    try:
        await until(lambda: "memory" in broker.wire.marks)
        yield feed, broker.wire
    finally:
        await feed.close()
        await broker.close()


async def test_a_takeover_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "realtime.feeds")
    store, metrics = MemoryStore(), Metrics()
    async with fed(store) as (first, wire):
        await until(lambda: first.running)
        broker = StrictBroker(wire)
        await broker.open(lambda *_: None, lambda: None, lambda: None)
        second = Feed(store, broker, metrics)
        second.open()
        await first.close()
        await until(lambda: metrics.takeovers.labels("memory")._value.get() == 1)
        await second.close()
        await broker.close()
    told = [message for message in caplog.messages if message.startswith("took over")]
    assert [message.partition(": ")[2] for message in told] == ["nobody had it", "another's ended: released"]


async def test_a_collection_that_no_channel_can_name_does_not_stop_the_feed() -> None:
    store = MemoryStore()
    async with fed(store) as (feed, wire):
        await store.put("my notes", "a", Raw(b"1"), ANYHOW)
        await store.put("notes", "a", Raw(b"2"), ANYHOW)
        await until(lambda: wire.log("memory/notes").offset == 1)
        assert list(wire.logs) == ["memory/notes"]
        assert feed.error is None


@pytest.mark.expects_logs
async def test_a_feed_that_runs_again_says_so_though_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.feeds.CALM", 0.05)
    store = Breaking()
    async with fed(store) as (feed, _):
        store.broken.set()
        await until(lambda: feed.error == "not up yet")
        await until(lambda: store.tries == 3 and feed.error is None)
        assert feed._metrics.takeovers.labels("memory")._value.get() == 1  # a holder that tries again took nothing over


@pytest.mark.expects_logs
async def test_a_defect_is_told_once_however_often_it_shows(caplog: pytest.LogCaptureFixture) -> None:
    store = Defective()
    async with fed(store):
        await store.put("notes", "a", Raw(b"1"), ANYHOW)
        await until(lambda: store.tries == 3)
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in told] == [True]


@pytest.mark.expects_logs
async def test_a_feed_whose_lease_is_gone_unheard_of_takes_it_again() -> None:
    store = MemoryStore()
    async with fed(store) as (_, wire):
        await until(lambda: "memory" in wire.leases)
        wire.leases.clear()
        await store.put("notes", "a", Raw(b"1"), ANYHOW)
        await until(lambda: wire.log("memory/notes").offset == 1)
        assert "memory" in wire.leases


async def test_what_a_store_found_by_looking_is_counted() -> None:
    store = Looking()
    async with fed(store) as (feed, _):
        for n in range(3):
            await store.put("notes", "a", Raw(b"%d" % n), ANYHOW)
        counter = feed._metrics.reconciles.labels("memory", "sweep")
        await until(lambda: counter._value.get() == 3)
