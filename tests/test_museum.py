"""Failures that other projects had, made to happen here; docs/museum.md lists them all, with their tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from realtime.brokers.memory import MemoryBroker
from realtime.brokers.redis import RedisBroker
from realtime.errors import StoreDown
from realtime.feeds import Feed
from realtime.metrics import Metrics
from realtime.protocol import Placed
from realtime.redis_pubsub import client
from realtime.stores.base import Batch, Lost
from realtime.stores.memory import MemoryStore
from tests import fakeclock
from tests.brokers.nodes import Node, change
from tests.valkey import valkey
from tests.wait import until

pytestmark = pytest.mark.expects_logs


# retry delay never resets after recovery -----------------------------------------------------------------------------


class Flaky(MemoryStore):
    """Its changes break when it goes down, and cannot be had until it is up; writes down when they were asked for."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__("memory")
        self.quiet = quiet
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.tries: list[float] = []
        self.up.set()

    async def outage(self, seconds: float) -> list[float]:
        """When it was tried, in seconds after it broke."""
        began = asyncio.get_running_loop().time()
        self.tries.clear()
        self.up.clear()
        self.down.set()
        await asyncio.sleep(seconds)
        self.down.clear()
        self.up.set()
        return [each - began for each in self.tries]

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        self.tries.append(asyncio.get_running_loop().time())
        if self.up.is_set():
            if not self.quiet:
                yield Batch((), mark or "0")
            await self.down.wait()
        raise StoreDown("down")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_retry_is_as_quick_an_hour_after_an_outage_as_at_first(quiet: bool) -> None:
    """Whether the store has something to say when it is back, or nothing at all."""

    async def story() -> None:
        store, broker, metrics = Flaky(quiet=quiet), MemoryBroker(), Metrics()
        await broker.open(lambda *_: None, lambda: None, lambda: None)
        feed = Feed(store, broker, metrics)
        feed.open()
        for _ in range(2):
            await asyncio.sleep(3600)
            assert feed.error is None
            tries = await store.outage(120)
            assert tries[0] < 0.15 < tries[-1] - tries[-2]  # by the end it is patient
        await feed.close()
        await broker.close()

    fakeclock.run(story())


# reconnect leaks the old connection ----------------------------------------------------------------------------------


class Clumsy(Node):
    """Fails at each event: what reads the connection breaks, and the connection is whole."""

    def _deliver(self, channel: str, events: Sequence[Placed]) -> None:
        super()._deliver(channel, events)
        raise ZeroDivisionError


@pytest.mark.asyncio
async def test_fifty_breaks_by_our_own_fault_leak_no_connection() -> None:
    """Where the network ends a connection there is nothing to leak; here it is ours to end."""
    with valkey() as server:
        node, admin = Clumsy(RedisBroker(server.url, "clumsy")), client(server.url)
        await node.open()
        await node.broker.subscribe("s/c")
        connections = []
        for n in range(1, 52):
            await node.publish("s/c", [change(n)])
            await until(lambda: node.recovered == n)  # noqa: B023 - it is awaited here
            connections.append(len(await admin.client_list()))
        assert connections[-1] <= connections[0]
        await node.broker.close()
        await admin.aclose()
