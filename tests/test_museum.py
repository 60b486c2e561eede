"""Failures that other projects had, made to happen here; docs/museum.md lists them all, with their tests."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack

import asyncpg
import pytest
from msgspec import Raw

from realtime.brokers.memory import MemoryBroker
from realtime.brokers.redis import RedisBroker
from realtime.embedded import Embedded
from realtime.errors import StoreDown
from realtime.feeds import Feed
from realtime.metrics import Metrics
from realtime.protocol import ANYHOW, Change, Placed
from realtime.redis_pubsub import client
from realtime.rights import EVERYTHING
from realtime.stores.base import Batch, Lost
from realtime.stores.memory import MemoryStore
from realtime.stores.postgres import PostgresStore
from realtime.verify.journal import Journal
from realtime.verify.proxy import Proxy
from tests import fakeclock
from tests.brokers.nodes import Node, change
from tests.cluster import address, cluster, databases, node, ready
from tests.stores.pg import database, following, psql
from tests.test_slow import serving
from tests.test_story import CASES, behind, write
from tests.valkey import valkey
from tests.wait import until
from tests.watcher import Watcher, watching

pytestmark = pytest.mark.expects_logs


# first two subscribers race -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_whoever_subscribes_second_is_not_told_so_before_the_first() -> None:
    """To a server whose confirmation is slow to come; on one connection, of which a name is asked for once."""
    with valkey() as server:
        async with Proxy(("127.0.0.1", server.port)) as proxy:
            node = Node(RedisBroker(f"redis://127.0.0.1:{proxy.port}/0", "node"))
            await node.open()
            await node.broker.subscribe("s/other")
            proxy.mode, proxy.delay = "slow", 0.1
            first, second = (asyncio.create_task(node.broker.subscribe("s/c")) for _ in range(2))
            await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            assert first.done()
            await second
            proxy.mode = "ok"
            await node.publish("s/c", [change(1)])
            await until(lambda: len(node.events("s/c")) == 1)
            await node.broker.close()


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
async def test_breaks_by_our_own_fault_leak_no_connection() -> None:
    """Where the network ends a connection there is nothing to leak; here it is ours to end."""
    with valkey() as server:
        node, admin = Clumsy(RedisBroker(server.url, "clumsy")), client(server.url)
        await node.open()
        await node.broker.subscribe("s/c")
        connections = []
        for n in range(1, 22):
            await node.publish("s/c", [change(n)])
            await until(lambda: node.recovered == n)  # noqa: B023 - it is awaited here
            connections.append(len(await admin.client_list()))
        assert connections[-1] <= connections[0]
        await node.broker.close()
        await admin.aclose()


# listener dies silently ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_node_that_is_cut_off_from_the_broker_says_so_and_heals(caplog: pytest.LogCaptureFixture) -> None:
    """By Redis, as the node reads too slowly; what was published meanwhile is told all the same."""
    caplog.set_level(logging.INFO, "realtime")
    with valkey() as server:
        admin = client(server.url)
        async with serving(RedisBroker(server.url, "node-1")) as service:
            metrics, watcher = service.metrics, Watcher(lambda: address(service), "memory/rooms")
            async with watching(watcher):
                await admin.config_set("client-output-buffer-limit", "pubsub 10000 0 0")
                large = Raw(b'"%s"' % (b"x" * 100_000))
                await service.node.items.put(EVERYTHING, "memory/rooms", "attic", large, ANYHOW)
                await until(lambda: watcher.items.keys() == {"attic"})
                assert (watcher.closed, watcher.observer.counts["reset"], watcher.wrong) == ([], 0, [])
            await until(lambda: metrics.broker_up._value.get() == 1)
            assert b"realtime_broker_breaks_total 1.0" in metrics.text()
        await admin.aclose()
    assert "the pub/sub connection to redis broke" in caplog.text
    assert "the pub/sub connection to redis is whole again" in caplog.text


# "subscribed" said before the feed is ready --------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_write_in_the_instant_of_subscribed_is_told_though_no_feed_runs_yet(servers: Embedded) -> None:
    """Another node has the leases and carries nothing; when the feeds begin, it has long happened."""
    async with databases(servers) as urls, AsyncExitStack() as held:
        other = RedisBroker(urls["redis"], "other")
        await other.open(lambda *_: None, lambda: None, lambda: None)
        held.push_async_callback(other.close)
        for store in CASES:
            await held.enter_async_context(other.lease(store))
        async with node(urls) as service:
            watchers = {store: Watcher(lambda: address(service), case.channel) for store, case in CASES.items()}
            for case in CASES.values():
                await write(service, case, "before")
            async with watching(*watchers.values()):
                for store in CASES:
                    await behind(store, urls, "in that instant")
                assert not any(feed.running for feed in service.feeds if feed.store.name in CASES)
                await held.aclose()
                for store, case in CASES.items():
                    await until(lambda: case.of(watchers[store].items[case.key]) == "in that instant")  # noqa: B023


# rows skipped after the slot advanced --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_of_a_bulk_update_all_events_arrive_or_a_reset_does(servers: Embedded) -> None:
    rows = 10_000

    async def fill(urls: dict[str, str]) -> None:
        await things(urls["postgres"], rows)

    async with cluster(servers, detour=fill) as nodes:
        [other] = [each for each in nodes if not any(feed.running for feed in each.feeds[:1])]
        watcher = Watcher(lambda: address(other), "postgres/things")
        counts = watcher.observer.counts
        async with watching(watcher):
            await until(lambda: len(watcher.observer.replica.items) == rows)
            await psql(nodes.urls["postgres"], "UPDATE things SET n = 1")
            await until(lambda: counts["event"] == rows or counts["reset"] + counts["refused"] > 0, 20)
            await until(lambda: b'"n":1' in bytes(watcher.observer.replica.items[str(rows)]))
            assert {row["n"] for row in watcher.items.values()} == {1}
            assert watcher.wrong == []


# slot conflicts on rolling deploy ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_each_new_node_is_there_before_the_old_one_lets_go(servers: Embedded) -> None:
    """A client goes from one to the next, and is told of every write, on the way over, too."""
    async with databases(servers) as urls, AsyncExitStack() as stack:
        await things(urls["postgres"], 1)
        nodes = [await stack.enter_async_context(node(urls, 0))]
        await until(lambda: ready(nodes))
        watcher = Watcher(lambda: address(nodes[-1]), "postgres/things")
        async with watching(watcher):
            stop = asyncio.Event()
            writing = asyncio.create_task(count(urls["postgres"], watcher.journal, stop))
            for number in (1, 2):
                nodes.append(await stack.enter_async_context(node(urls, number)))
                told = watcher.observer.counts["event"]
                await until(lambda: watcher.observer.counts["event"] > told + 10)  # noqa: B023
                await nodes[-2].drain()
                await nodes[-2].close()
                await until(lambda: watcher.connected == address(nodes[-1]))
            stop.set()
            last = await writing
            await until(lambda: watcher.items["1"]["n"] == last, 5)
            watcher.observer.settle()
            assert watcher.closed == [1012, 1012]
            assert watcher.observer.counts["reset"] + watcher.observer.counts["refused"] == 0
            assert watcher.wrong == []


async def things(url: str, rows: int) -> None:
    fill = f"INSERT INTO things SELECT g, 0 FROM generate_series(1, {rows}) g"
    await psql(url, "CREATE TABLE things (key text PRIMARY KEY, n bigint)", fill)
    store = PostgresStore(url)
    await store.open()
    await store.track("things")
    await store.close()


async def count(url: str, journal: Journal, stop: asyncio.Event) -> int:
    """By another program, as fast as it goes; returns the last number."""
    sql, number = await asyncpg.connect(url), 0
    while not stop.is_set():
        number = journal.issue("postgres/things", "1", "put")
        await sql.execute("UPDATE things SET n = $1", number)
        journal.ack("postgres/things", "1", number)
        await asyncio.sleep(0.005)
    await sql.close()
    return number


# an idle transaction in another database -----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_transactions_that_are_open_for_long_anywhere_neither_stall_nor_reorder(servers: Embedded) -> None:
    server = servers.urls["postgres"]
    async with database(server) as db, database(server) as other, db.store() as store, following(store) as feed:
        await db.sql.execute("CREATE SEQUENCE place")
        insert = "INSERT INTO entries (slug, title) VALUES ($1, $1)"
        elsewhere, old, slow = await other.connect(), await db.connect(), await db.connect()
        open_ones = [each.transaction() for each in (elsewhere, old, slow)]
        for transaction in open_ones:
            await transaction.start()
        await elsewhere.execute("CREATE TABLE mine (n int)")
        await old.execute(insert, "old")
        await slow.execute(insert, "slow")
        for word in "abc":
            await db.sql.execute(insert, word)
        told = await feed.changes(3)
        await open_ones[2].commit()
        told += await feed.changes(1)
        await db.sql.execute(insert, "d")
        await open_ones[1].commit()
        told += await feed.changes(2)
        assert [key_of(change) for change in told] == ["a", "b", "c", "slow", "d", "old"]
        assert [change.version for change in told] == sorted({change.version for change in told})
        for connection in (elsewhere, old, slow):
            await connection.close()


def key_of(change: Change) -> object:
    assert isinstance(change.value, Raw)
    return json.loads(bytes(change.value))["slug"]
