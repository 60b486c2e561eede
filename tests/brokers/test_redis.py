"""The Redis broker when things break: rule 3 of `brokers/base.py`, and what is only true of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio
from msgspec import Raw
from redis.asyncio import Redis

from realtime.brokers.base import LeaseLost
from realtime.brokers.keys import LEASE, LOG, NODE
from realtime.brokers.redis import RedisBroker
from realtime.errors import BrokerDown, CursorLost
from realtime.protocol import Change, Placed
from realtime.redis_pubsub import client, failing_as
from realtime.session import MAX_PENDING
from realtime.verify.proxy import Mode, Proxy
from tests.valkey import Valkey, valkey
from tests.wait import until

from .nodes import Node, change, values

pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs]  # it breaks things all the time
CHANNEL = "s/c"


@pytest.fixture(scope="module")
def running() -> Iterator[Valkey]:
    with valkey() as server:
        yield server


@pytest_asyncio.fixture
async def admin(running: Valkey) -> AsyncIterator[Redis]:
    redis = client(running.url)
    await redis.flushall()
    yield redis
    await redis.aclose()


@pytest_asyncio.fixture
async def proxy(running: Valkey) -> AsyncIterator[Proxy]:
    async with Proxy(("127.0.0.1", running.port)) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def near(running: Valkey, admin: Redis) -> AsyncIterator[Node]:
    """A node with nothing between it and the server."""
    async for node in opened(running.url, "near"):
        yield node


@pytest_asyncio.fixture
async def far(proxy: Proxy, admin: Redis) -> AsyncIterator[Node]:
    """A node behind the proxy."""
    async for node in opened(f"redis://127.0.0.1:{proxy.port}/0", "far"):
        yield node


async def opened(url: str, name: str = "node") -> AsyncIterator[Node]:
    node = Node(RedisBroker(url, name))
    await node.open()
    yield node
    await node.broker.close()


async def whole_again(node: Node, times: int) -> None:
    await until(lambda: node.recovered == times)


async def arrives(near: Node, far: Node, n: int) -> None:
    await near.publish(CHANNEL, [change(n)])
    await until(lambda: n in values(far.events(CHANNEL)))


# 3. A break may lose deliveries but never reorders or alters them; when whole again the broker calls `recovered`. ----


async def test_a_killed_pubsub_connection_is_rebuilt_and_said(near: Node, far: Node, admin: Redis) -> None:
    await far.broker.subscribe(CHANNEL)
    start = await far.position(CHANNEL)
    await arrives(near, far, 1)
    assert (far.broken, far.recovered) == (0, 0)
    await admin.client_kill_filter(_type="pubsub")
    await near.publish(CHANNEL, [change(2)])
    await until(lambda: (far.broken, far.recovered) == (1, 1))
    await arrives(near, far, 3)
    assert values(await far.broker.history(CHANNEL, start)) == [1, 2, 3]


@pytest.mark.parametrize("mode", ["blackhole", "deaf"])
async def test_a_silent_connection_is_noticed(near: Node, far: Node, proxy: Proxy, mode: Mode) -> None:
    await far.broker.subscribe(CHANNEL)
    proxy.mode = mode
    began = time.monotonic()
    with pytest.raises(BrokerDown):
        await far.broker.publish(CHANNEL, [change(1)])
    await until(lambda: far.broken > 0)
    assert time.monotonic() - began < 6
    proxy.mode = "ok"
    await until(lambda: far.recovered > 0)
    await arrives(near, far, 2)
    assert (far.broken, far.recovered) == (1, 1)


async def test_a_reset_connection_is_rebuilt(near: Node, far: Node, proxy: Proxy) -> None:
    await far.broker.subscribe(CHANNEL)
    for n in range(1, 4):
        proxy.reset()
        await whole_again(far, n)
        await arrives(near, far, n)


async def test_cut_off_for_reading_too_slowly(near: Node, far: Node, admin: Redis) -> None:
    await far.broker.subscribe(CHANNEL)
    start = await far.position(CHANNEL)
    name = "client-output-buffer-limit"
    usual = str((await admin.config_get(name))[name])
    await admin.config_set(name, "pubsub 10000 0 0")
    large = Change("c", "k", "put", Raw(b'"%s"' % (b"x" * 100_000)), "00000001", 0.0)
    await near.publish(CHANNEL, [large])
    await until(lambda: far.recovered > 0)
    await admin.config_set(name, usual)
    assert [event.event.version for event in await far.broker.history(CHANNEL, start)] == ["00000001"]
    await arrives(near, far, 2)


async def test_idle_for_longer_than_any_time_out(near: Node, far: Node) -> None:
    await far.broker.subscribe(CHANNEL)
    await asyncio.sleep(4.5)  # what is tested is that nothing happens
    assert (far.broken, far.recovered) == (0, 0)
    await arrives(near, far, 1)


async def test_fifty_breaks_leak_nothing_and_do_not_slow_down(near: Node, far: Node, proxy: Proxy) -> None:
    await arrives_quickly(near, far)
    before = proxy.connections
    began = time.monotonic()
    for n in range(1, 51):
        proxy.reset()
        await whole_again(far, n)
        await far.position(CHANNEL)
    assert time.monotonic() - began < 15
    await until(lambda: proxy.connections <= before)


async def arrives_quickly(near: Node, far: Node) -> None:
    await far.broker.subscribe(CHANNEL)
    await far.position(CHANNEL)
    await arrives(near, far, 1)


async def test_strangers_messages_are_not_passed_on(near: Node, admin: Redis) -> None:
    await near.broker.subscribe(CHANNEL)
    await admin.publish(LOG + CHANNEL, "hello")
    await admin.publish(LOG + CHANNEL, '{"type":"event"}')
    await arrives(near, near, 1)
    assert len(near.heard) == 1


async def test_a_defect_in_who_hears_leaves_no_deaf_node(running: Valkey, near: Node) -> None:
    class Clumsy(Node):
        def _deliver(self, channel: str, events: Sequence[Placed]) -> None:
            super()._deliver(channel, events)
            if len(self.heard) == 1:
                raise ZeroDivisionError

    clumsy = Clumsy(RedisBroker(running.url, "clumsy"))
    await clumsy.open()
    try:
        await clumsy.broker.subscribe(CHANNEL)
        await near.publish(CHANNEL, [change(1)])
        await until(lambda: clumsy.recovered > 0)
        await arrives(near, clumsy, 2)
    finally:
        await clumsy.broker.close()


# 2. When `subscribe` returns … and 7. A broker that does not answer within seconds raises `BrokerDown`. -------------


async def test_a_failure_without_words_is_named() -> None:
    with pytest.raises(BrokerDown, match="redis does not answer: TimeoutError"), failing_as(BrokerDown):
        raise TimeoutError


async def test_a_subscribe_that_fails_never_was(near: Node, far: Node, proxy: Proxy) -> None:
    await far.broker.subscribe("s/other")
    proxy.mode = "refuse"
    proxy.reset()
    await until(lambda: far.broken > 0)
    began = time.monotonic()
    with pytest.raises(BrokerDown):
        await far.broker.subscribe(CHANNEL)
    assert time.monotonic() - began < 4
    proxy.mode = "ok"
    await until(lambda: far.recovered > 0)
    await near.publish(CHANNEL, [change(1)])
    await far.broker.subscribe("s/third")
    assert not far.heard
    await far.broker.subscribe(CHANNEL)
    await arrives(near, far, 2)


async def test_a_subscribe_in_a_short_break_waits_it_out(near: Node, far: Node, proxy: Proxy) -> None:
    await far.broker.subscribe("s/other")
    proxy.mode = "refuse"
    proxy.reset()
    await until(lambda: far.broken > 0)
    subscribing = [asyncio.create_task(far.broker.subscribe(CHANNEL)) for _ in range(2)]
    await asyncio.sleep(0)
    proxy.mode = "ok"
    await asyncio.gather(*subscribing)
    await arrives(near, far, 1)


async def test_opening_does_not_wait_for_the_server(running: Valkey, proxy: Proxy, near: Node) -> None:
    proxy.mode = "refuse"
    async for node in opened(f"redis://127.0.0.1:{proxy.port}/0"):
        for call in (node.position(CHANNEL), node.broker.publish(CHANNEL, [change(1)])):
            with pytest.raises(BrokerDown):
                await call
        with pytest.raises(BrokerDown):
            async with node.broker.lease("s"):
                pass
        proxy.mode = "ok"
        await node.broker.subscribe(CHANNEL)
        await arrives(near, node, 2)


# 4. `history(channel, after)` is exact or raises `CursorLost`: when the server loses or replaces its data. -----------


async def test_flushed_while_in_use(near: Node, far: Node, admin: Redis) -> None:
    await far.broker.subscribe(CHANNEL)
    await near.publish(CHANNEL, [change(n) for n in range(1, 6)])
    before = await near.position(CHANNEL)
    await admin.flushall()
    await near.publish(CHANNEL, [change(n) for n in range(6, 12)])  # beyond the old offset
    with pytest.raises(CursorLost, match="epoch"):
        await far.broker.history(CHANNEL, before)
    await until(lambda: len(far.events(CHANNEL)) == 11)
    assert [event.cursor.offset for event in far.events(CHANNEL)[5:]] == list(range(1, 7))
    assert far.events(CHANNEL)[5].cursor.epoch != before.epoch


@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_another_run_of_the_server_is_another_epoch(data: str) -> None:
    with valkey("--appendonly", "yes" if data == "kept" else "no") as server:
        async for node in opened(server.url):
            await node.broker.subscribe(CHANNEL)
            await node.publish(CHANNEL, [change(n) for n in range(1, 6)])
            before = await node.position(CHANNEL)
            server.kill()
            with pytest.raises(BrokerDown):
                await node.position(CHANNEL)
            server.start()
            await until(lambda: node.recovered > 0)  # noqa: B023
            with pytest.raises(CursorLost, match="epoch"):
                await node.broker.history(CHANNEL, before)
            after = await node.position(CHANNEL)
            await node.publish(CHANNEL, [change(5), change(6)])
            told = values(await node.broker.history(CHANNEL, after))
            assert told == ([6] if data == "kept" else [5, 6])  # the version outlives the epoch


async def test_an_expired_log_is_trimmed_not_empty(running: Valkey, admin: Redis) -> None:
    node = Node(RedisBroker(running.url, "node", history_ttl=1))
    await node.open()
    try:
        start = await node.position(CHANNEL)
        await node.publish(CHANNEL, [change(1)])
        async with asyncio.timeout(5):
            while await admin.exists(LOG + CHANNEL):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with pytest.raises(CursorLost, match="trimmed"):
            await node.broker.history(CHANNEL, start)
        await node.publish(CHANNEL, [change(2)])
        assert (await node.position(CHANNEL)).offset == 2
    finally:
        await node.broker.close()


async def test_a_large_publish_comes_in_portions(near: Node, far: Node) -> None:
    """Each a fraction of what may wait for a session, so that a client that reads has its turn in between."""
    await far.broker.subscribe(CHANNEL)
    large = [Change("c", str(n), "put", Raw(b'"%s"' % (b"x" * 2000)), f"{n:08d}", 1.0) for n in range(600)]
    await near.publish(CHANNEL, large)
    await until(lambda: len(far.events(CHANNEL)) == len(large))
    assert max(sum(len(event.json) for event in events) for _, events in far.heard) < MAX_PENDING / 2


# 6. A lease has at most one holder; a holder that loses it is cancelled. --------------------------------------------


async def hold(node: Node, log: list[str], name: str) -> None:
    try:
        async with node.broker.lease("feed") as lease:
            log.append(f"{name} has it" + f", as {lease.before}" * bool(lease.before))
            await asyncio.Event().wait()
    except LeaseLost:
        log.append(f"{name} lost it")


@pytest_asyncio.fixture
async def holders(near: Node, far: Node) -> AsyncIterator[list[str]]:
    """`far` holds the lease, `near` waits for it; what happens is written down."""
    log: list[str] = []
    first = asyncio.create_task(hold(far, log, "far"))
    await until(lambda: log == ["far has it"])
    tasks = [first, asyncio.create_task(hold(near, log, "near"))]
    yield log
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_dead_holder_is_followed_at_once(holders: list[str], proxy: Proxy) -> None:
    began = time.monotonic()
    proxy.mode = "refuse"
    proxy.reset()
    await until(lambda: "near has it, as far is gone" in holders)
    assert time.monotonic() - began < 1


async def test_a_silent_holder_stops_before_it_is_followed(holders: list[str], proxy: Proxy) -> None:
    began = time.monotonic()
    proxy.mode = "blackhole"  # the server sees nothing wrong with its connections
    await until(lambda: len(holders) == 3)
    assert holders == ["far has it", "far lost it", "near has it, as far let it run out"]
    assert 3 < time.monotonic() - began < 6


async def test_after_a_silence_a_node_is_counted_once(far: Node, proxy: Proxy, admin: Redis) -> None:
    """The server knows of no end of the connection that fell silent; when the node dies, nothing of it must be left."""
    assert isinstance(far.broker, RedisBroker)
    home = f"{NODE}{far.broker._node}"
    await far.broker.subscribe("memory/c")  # it is connected
    proxy.mode = "blackhole"
    await until(lambda: far.broken > 0)
    assert await admin.pubsub_numsub(home) == [(home.encode(), 1)]
    proxy.mode = "ok"
    await until(lambda: far.recovered > 0)
    assert await admin.pubsub_numsub(home) == [(home.encode(), 1)]


async def test_a_flushed_lease_is_lost(holders: list[str], admin: Redis) -> None:
    await admin.flushall()
    await until(lambda: "far lost it" in holders and any(said.startswith("near has it") for said in holders))


async def test_a_node_need_not_wait_for_what_it_could_not_release(running: Valkey, near: Node, admin: Redis) -> None:
    """As after a short outage of a server that kept its data: the lease is still there, and the node's own."""
    broker = near.broker
    assert isinstance(broker, RedisBroker)
    await admin.set(f"{LEASE}feed", f"{broker._node}/before", px=5000)
    async with asyncio.timeout(1), broker.lease("feed") as lease:
        assert lease.before == ""


async def test_a_holder_goes_on_when_its_calls_break(holders: list[str], admin: Redis, far: Node) -> None:
    await admin.client_kill_filter(_type="normal", skipme=True)
    await arrives_quickly(far, far)
    assert holders == ["far has it"]
