"""The rules of `brokers/base.py`, kept by each broker; the headings are the rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest
import pytest_asyncio

from realtime import embedded
from realtime.brokers.base import Broker, LeaseLost
from realtime.brokers.keys import LEASE
from realtime.brokers.memory import MemoryBroker, Wire
from realtime.brokers.redis import RedisBroker
from realtime.errors import BrokerDown, CursorLost
from realtime.protocol import Cursor
from realtime.redis_pubsub import client
from tests.wait import until

from .nodes import Node, change, new_store, offsets, values

pytestmark = pytest.mark.asyncio

HISTORY = 50
Join: TypeAlias = Callable[[], Awaitable[Node]]
Rob: TypeAlias = Callable[[str], Awaitable[None]]


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def join(kind: str, servers: embedded.Embedded) -> AsyncIterator[Join]:
    """Opens one more node of the same cluster."""
    wire, nodes = Wire(history=HISTORY), list[Node]()

    async def make() -> Node:
        broker: Broker = (
            MemoryBroker(wire) if kind == "memory" else RedisBroker(servers.urls["redis"], "node", history=HISTORY)
        )
        nodes.append(Node(broker))
        await nodes[-1].open()
        return nodes[-1]

    yield make
    for node in nodes:
        await node.broker.close()


@pytest_asyncio.fixture
async def rob(kind: str, join: Join, servers: embedded.Embedded) -> AsyncIterator[Rob]:
    """Takes a store's lease away from whoever holds it."""
    someone = await join()
    redis = client(servers.urls["redis"])

    async def take(store: str) -> None:
        if isinstance(someone.broker, MemoryBroker):
            someone.broker.wire.leases[store].lose("robbed")
        else:
            await redis.set(LEASE + store, "somebody/else", px=5000)

    yield take
    await redis.aclose()


async def arrived(node: Node, channel: str, events: int) -> None:
    await until(lambda: len(node.events(channel)) == events)


@pytest.fixture
def store() -> str:
    return new_store()


@pytest.fixture
def channel(store: str) -> str:
    return f"{store}/c"


# 1. Per channel, offsets grow by one; history and delivery agree on them. -------------------------------------------


async def test_offsets_grow_by_one_and_history_says_what_was_delivered(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    await b.broker.subscribe(channel)
    start = await a.position(channel)
    for n in range(1, 30, 3):
        await a.publish(channel, [change(n), change(n + 1), change(n + 2)])
    await until(lambda: len(b.events(channel)) == 30)
    assert offsets(b.events(channel)) == list(range(1, 31))
    assert [event.json for event in await b.broker.history(channel, start)] == [e.json for e in b.events(channel)]
    assert await a.position(channel) == b.events(channel)[-1].cursor


async def test_channels_count_each_for_itself(join: Join, store: str) -> None:
    node = await join()
    await node.publish(f"{store}/one", [change(1), change(2)])
    await node.publish(f"{store}/two", [change(3)])
    one, two = await node.position(f"{store}/one"), await node.position(f"{store}/two")
    assert (one.offset, two.offset) == (2, 1)
    assert one.epoch != two.epoch


async def test_an_event_carries_its_change_and_its_place(join: Join, channel: str) -> None:
    node = await join()
    start = await node.position(channel)
    await node.publish(channel, [change(7, key='a "key" with ünïcode')])
    (placed,) = await node.broker.history(channel, start)
    event = placed.event
    assert (event.channel, event.key, event.op, event.version) == (channel, 'a "key" with ünïcode', "put", "00000007")
    assert (bytes(event.value or b""), event.time) == (b"7", 1700000007.0)
    assert placed.cursor == Cursor(start.epoch, 1)


async def test_a_large_batch_arrives_whole_and_in_order(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    await b.broker.subscribe(channel)
    await a.publish(channel, [change(n) for n in range(1, 1235)])
    await until(lambda: len(b.events(channel)) == 1234)
    assert values(b.events(channel)) == offsets(b.events(channel)) == list(range(1, 1235))


# 2. When `subscribe` returns, every later publish on any node reaches `deliver`. ------------------------------------


async def test_what_is_published_right_after_subscribe_arrives(join: Join, store: str) -> None:
    a, b = await join(), await join()
    for n in range(20):
        await b.broker.subscribe(f"{store}/c{n}")
        await a.publish(f"{store}/c{n}", [change(1)])
    await until(lambda: all(b.events(f"{store}/c{n}") for n in range(20)))
    assert not a.heard


async def test_two_who_subscribe_at_once_both_hear(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    await asyncio.gather(*(node.broker.subscribe(channel) for node in (a, a, b)))
    await a.publish(channel, [change(1)])
    await until(lambda: [] not in (a.events(channel), b.events(channel)))
    assert offsets(a.events(channel)) == [1]


async def test_leaving_the_last_channel_and_joining_again(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    for n in range(1, 4):
        await b.broker.subscribe(channel)
        await a.publish(channel, [change(2 * n)])
        await arrived(b, channel, n)
        await b.broker.unsubscribe(channel)
        await a.publish(channel, [change(2 * n + 1)])
    assert values(b.events(channel)) == [2, 4, 6]


async def test_joining_while_leaving(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    await b.broker.subscribe(channel)
    await asyncio.gather(b.broker.unsubscribe(channel), b.broker.subscribe(channel))
    await a.publish(channel, [change(1)])
    await until(lambda: b.events(channel) != [])


# 3. A break may lose deliveries but never reorders or alters them; when whole again the broker calls `recovered`. ----
# (There is nothing to break in memory: tests/brokers/test_redis.py.)


# 4. `history(channel, after)` is exact or raises `CursorLost`. ------------------------------------------------------


async def test_history_after_a_place_is_what_came_after_it(join: Join, channel: str) -> None:
    node = await join()
    await node.publish(channel, [change(n) for n in range(1, 11)])
    head = await node.position(channel)
    for offset in (0, 4, 9, 10):
        missed = await node.broker.history(channel, Cursor(head.epoch, offset))
        assert offsets(missed) == list(range(offset + 1, 11))


async def test_a_place_in_another_epoch_is_lost(join: Join, channel: str) -> None:
    node = await join()
    await node.publish(channel, [change(1)])
    with pytest.raises(CursorLost, match="epoch"):
        await node.broker.history(channel, Cursor("another", 0))


async def test_a_place_in_the_future_is_lost(join: Join, channel: str) -> None:
    node = await join()
    head = await node.position(channel)
    with pytest.raises(CursorLost, match="future"):
        await node.broker.history(channel, Cursor(head.epoch, 1))


async def test_a_place_before_what_is_kept_is_lost(join: Join, channel: str) -> None:
    node = await join()
    start = await node.position(channel)
    await node.publish(channel, [change(n) for n in range(1, 2001)])
    with pytest.raises(CursorLost, match="trimmed"):
        await node.broker.history(channel, start)
    kept = await node.broker.history(channel, Cursor(start.epoch, 2000 - HISTORY))
    assert offsets(kept) == list(range(2001 - HISTORY, 2001))


async def test_the_position_opens_an_epoch_that_stays(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    position = await a.position(channel)
    assert position.offset == 0
    assert await b.position(channel) == position
    assert await b.broker.history(channel, position) == []


async def test_positions_of_many_are_each_its_own(join: Join, store: str) -> None:
    a, b = await join(), await join()
    channels = [f"{store}/c{n}" for n in range(250)]
    for n in (3, 249):
        await a.publish(channels[n], [change(1), change(2)])
    positions = await b.broker.positions(channels)
    assert [n for n, position in enumerate(positions) if position.offset] == [3, 249]
    assert len({position.epoch for position in positions}) == 250
    assert await a.broker.positions(channels[::-1]) == positions[::-1]
    assert await a.position(channels[249]) == positions[249]
    assert await a.broker.positions([]) == []


# 5. Publishing a version at or below the channel's last one is a no-op. ---------------------------------------------


async def test_old_versions_change_nothing(join: Join, channel: str) -> None:
    a, b = await join(), await join()
    start = await a.position(channel)
    await a.publish(channel, [change(n) for n in (1, 2, 3)])
    await b.publish(channel, [change(n) for n in (1, 2, 3)])
    await b.publish(channel, [change(n) for n in (2, 3, 4, 4, 5)])
    assert values(await a.broker.history(channel, start)) == [1, 2, 3, 4, 5]


async def test_versions_compare_byte_by_byte(join: Join, channel: str) -> None:
    node = await join()
    start = await node.position(channel)
    versions = ["00000001", "0000000a", "0000000a.1", "0000000a_1", "0000000aa", "0000000b"]
    changes = [change(n) for n in range(len(versions))]
    for each, version in zip(changes, versions, strict=True):
        await node.publish(channel, [type(each)("c", each.key, each.op, each.value, version, each.time)])
    assert versions == sorted(versions)
    assert [placed.event.version for placed in await node.broker.history(channel, start)] == versions


async def test_versions_differ_at_any_place(join: Join, channel: str) -> None:
    """Also where one is the beginning of the other; each is above all that sort before it, and below none of them."""
    node = await join()
    start = await node.position(channel)
    versions = sorted({"m" * place + other + rest for place in range(20) for other in "Mné" for rest in ("", "mmm")})
    versions = sorted({*versions, *("m" * place for place in range(1, 20))})
    template = change(0)
    changes = [type(template)("c", "k", "put", template.value, version, 0.0) for version in versions]
    await node.publish(channel, changes)
    assert (await node.position(channel)).offset == start.offset + len(versions)
    await node.publish(channel, changes[::-1])
    assert (await node.position(channel)).offset == start.offset + len(versions)


# 6. A lease has at most one holder; a holder that loses it is cancelled; a late publish of an old one changes nothing.


async def test_one_holder_at_a_time_and_the_mark_passes_on(join: Join, store: str) -> None:
    nodes = [await join() for _ in range(3)]
    holders = most = 0
    marks: list[str | None] = []

    async def hold(node: Node, n: int) -> None:
        nonlocal holders, most
        async with node.broker.lease(store) as lease:
            holders += 1
            most = max(most, holders)
            marks.append(lease.mark)
            await asyncio.sleep(0.01)
            await lease.keep(f"mark-{n}")
            holders -= 1

    await asyncio.gather(*(hold(node, n) for n, node in enumerate(nodes)))
    assert most == 1
    assert marks[0] is None
    assert len(set(marks)) == 3
    async with nodes[0].broker.lease(new_store()):  # another store's is free
        pass


async def test_a_holder_that_loses_it_is_cancelled(join: Join, rob: Rob, store: str) -> None:
    node = await join()
    cancelled = False

    async def hold() -> None:
        nonlocal cancelled
        async with node.broker.lease(store):
            await rob(store)
            try:
                await asyncio.Event().wait()
            finally:
                cancelled = True

    with pytest.raises(LeaseLost):
        await hold()
    assert cancelled
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_somebody_elses_cancellation_stays_one(join: Join, store: str) -> None:
    a, b = await join(), await join()
    held = asyncio.Event()

    async def hold() -> None:
        async with a.broker.lease(store):
            held.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await held.wait()
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    async with asyncio.timeout(1), b.broker.lease(store):  # and it was released
        pass


async def test_the_bodys_own_error_gets_out_and_releases(join: Join, store: str) -> None:
    node = await join()
    with pytest.raises(ZeroDivisionError):
        async with node.broker.lease(store):
            _ = 1 / 0
    async with asyncio.timeout(1), node.broker.lease(store):
        pass


async def test_an_old_holder_can_neither_keep_nor_renew_nor_publish(join: Join, rob: Rob, store: str) -> None:
    a, b = await join(), await join()
    head = await a.position(f"{store}/c")

    async def hold() -> None:
        async with a.broker.lease(store) as lease:
            await rob(store)
            with pytest.raises(LeaseLost):
                await lease.keep("late")
            await lease.renew(["c"], "late")

    with pytest.raises(LeaseLost):
        await hold()
    async with asyncio.timeout(8), b.broker.lease(store) as lease:
        assert lease.mark is None
        with pytest.raises(LeaseLost):
            await a.broker.publish(f"{store}/c", [change(9)])
        assert await b.position(f"{store}/c") == head
        await b.broker.publish(f"{store}/c", [change(1)])
        assert (await a.position(f"{store}/c")).offset == 1


async def test_an_old_holder_is_refused_also_where_there_is_no_new_one(join: Join, channel: str) -> None:
    """Else, in a channel that has a new epoch since, a version of the old one could keep out all that come."""
    a, b = await join(), await join()
    await a.publish(channel, [change(9)])
    async with b.broker.lease(channel.partition("/")[0]) as lease:
        await lease.renew(None, "the store begins again")
    with pytest.raises(LeaseLost):
        await a.broker.publish(channel, [change(10)])
    start = await b.position(channel)
    await b.publish(channel, [change(1)])
    assert values(await a.broker.history(channel, start)) == [1]


@pytest.mark.parametrize("collections", [["c"], None])
async def test_renew_opens_a_new_epoch_and_tells_the_nodes(
    join: Join, store: str, collections: list[str] | None
) -> None:
    a, b = await join(), await join()
    channel, other = f"{store}/c", f"{new_store()}/c"
    await b.broker.subscribe(channel)
    for name in (channel, other):
        await a.publish(name, [change(5)])
    before, untouched = await a.position(channel), await a.position(other)
    async with a.broker.lease(store) as lease:
        await lease.renew(collections, "why")
        await until(lambda: (channel, ()) in [(name, tuple(events)) for name, events in b.heard])
        after = await b.position(channel)
        assert (after.epoch != before.epoch, after.offset) == (True, 0)
        with pytest.raises(CursorLost, match="epoch"):
            await b.broker.history(channel, before)
        await a.broker.publish(channel, [change(2)])  # a store that begins again may count from one
    assert values(await b.broker.history(channel, after)) == [2]
    assert await b.position(other) == untouched


# 7. A broker that does not answer within seconds raises `BrokerDown`. -----------------------------------------------


async def test_a_closed_memory_broker_is_down() -> None:
    with pytest.raises(BrokerDown):
        await MemoryBroker().positions(["s/c"])
