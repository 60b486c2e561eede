"""Random schedules: writers, nodes that lose events, clients that come, go and resume; the replica is the oracle.

Everything is in memory, so that a seed is a schedule. What random ones rarely hit, the hand-made ones below them do.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Self

import msgspec
import pytest
from msgspec import Raw

from realtime import channels, protocol, resets
from realtime.brokers.base import Broken, Deliver, Recovered
from realtime.brokers.memory import MemoryBroker, Wire
from realtime.errors import StoreDown
from realtime.feeds import Feed
from realtime.metrics import Metrics
from realtime.node import Node
from realtime.protocol import ANYHOW, Event, Placed, Reset, Subscribe, Subscribed
from realtime.replica import Replica
from realtime.session import Session
from realtime.stores.base import Snapshot
from realtime.stores.memory import MemoryStore
from tests.wait import until

pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs]

KEYS = [str(number) for number in range(40)]
CHANNEL = "memory/things"


class LossyBroker(MemoryBroker):
    """Loses some deliveries, says so now and then."""

    def __init__(self, wire: Wire, chance: float, dice: random.Random) -> None:
        super().__init__(wire)
        self._chance, self._dice = chance, dice

    async def open(self, deliver: Deliver, recovered: Recovered, broken: Broken) -> None:
        def lossy(channel: str, events: Sequence[Placed]) -> None:
            kept = [event for event in events if self._dice.random() >= self._chance]
            if kept or not events:
                deliver(channel, kept)

        await super().open(lossy, recovered, broken)


class LateBroker(MemoryBroker):
    """Keeps deliveries back, and calls from returning, for as long as it is told to."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.late = False
        self.looks, self.unsubscribes = Gate(), Gate()
        self._kept: list[tuple[str, Sequence[Placed]]] = []

    async def open(self, deliver: Deliver, recovered: Recovered, broken: Broken) -> None:
        self._at_once = deliver
        await super().open(self._when_told, recovered, broken)

    def _when_told(self, channel: str, events: Sequence[Placed]) -> None:
        if self.late:
            self._kept.append((channel, events))
        else:
            self._at_once(channel, events)

    def lose(self) -> None:
        self.late = False
        self._kept.clear()

    def hand_over(self) -> None:
        self.late = False
        for channel, events in self._kept:
            self._at_once(channel, events)

    async def positions(self, channels: Sequence[str]) -> list[protocol.Cursor]:
        positions = await super().positions(channels)
        await self.looks.passed()
        return positions

    async def unsubscribe(self, channel: str) -> None:
        await super().unsubscribe(channel)
        await self.unsubscribes.passed()


class Gate:
    """Open, until it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        self.waiting += 1
        await self._open.wait()
        self.waiting -= 1


class Busy:
    """How many are in here, for some steps each, and how many there were at most."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.now = self.most = 0

    async def passed(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(self._steps):
            await asyncio.sleep(0)
        self.now -= 1


class CountingBroker(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []  # whose positions

    async def positions(self, channels: Sequence[str]) -> list[protocol.Cursor]:
        self.asked += channels
        return await super().positions(channels)


class BusyBroker(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.histories, self.subscribes = Busy(1), Busy(1)

    async def subscribe(self, channel: str) -> None:
        await self.subscribes.passed()
        await super().subscribe(channel)

    async def history(self, channel: str, after: protocol.Cursor) -> list[Placed]:
        await self.histories.passed()
        return await super().history(channel, after)


class BusyStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__("memory")
        self.snapshots = Busy(100)

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        await self.snapshots.passed()
        return await super().snapshot(collection, keys, after=after, limit=limit)


class SlowStore(MemoryStore):
    """Lets others run in the middle of a snapshot, before and after its moment."""

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        await asyncio.sleep(0)
        snapshot = await super().snapshot(collection, keys, after=after, limit=limit)
        await asyncio.sleep(0)
        return snapshot


class Client:
    """Watches one selection; checks each message against what it knows."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.replica = Replica(CHANNEL, key)
        self.session: Session | None = None
        self.node: Node | None = None
        self.place: tuple[str, int] | None = None
        self.newest: dict[str, int] = {}
        self.wrong: list[str] = []

    async def join(self, node: Node) -> None:
        self.node, self.session = node, Session(lambda: None)
        if self.replica.cursor is not None:
            cursor = protocol.Cursor.parse(self.replica.cursor)
            self.place = cursor.epoch, cursor.offset
        await node.subscribe(self.session, Subscribe(1, CHANNEL, self.key, self.replica.cursor))

    def drop(self, *, read: bool) -> None:
        if read:
            self.read()
        if self.node is not None and self.session is not None:
            self.node.release(self.session)
        self.replica.broken()
        self.node = self.session = None

    def read(self) -> None:
        for message in self.session.take() if self.session is not None else ():
            decoded = protocol.decode_message(protocol.encode(message, "json"), "json")
            self.check(decoded)
            self.replica.apply(decoded)

    def check(self, message: protocol.ServerMessage) -> None:
        if isinstance(message, Subscribed | Reset) and message.items is not None:
            for key, value in message.items.items():
                self._not_older(key, value)
            cursor = protocol.Cursor.parse(message.cursor)
            self.place = cursor.epoch, cursor.offset
        elif isinstance(message, Event):
            if isinstance(message.value, Raw):
                self._not_older(message.key, message.value)
            cursor = protocol.Cursor.parse(message.cursor)
            if self.place is None or cursor.epoch != self.place[0] or cursor.offset <= self.place[1]:
                self.wrong.append(f"place {cursor} after {self.place}")
            self.place = cursor.epoch, cursor.offset

    def _not_older(self, key: str, value: Raw) -> None:
        count = msgspec.json.decode(value)
        if count < self.newest.get(key, 0):
            self.wrong.append(f"{key}: {count} after {self.newest[key]}")
        self.newest[key] = count


class Cluster:
    """Two nodes on one wire and one store, clients, and a count that makes each write unique."""

    def __init__(
        self,
        seed: int = 0,
        *,
        loss: float = 0.0,
        history: int = 1000,
        brokers: Sequence[MemoryBroker] = (),
        store: MemoryStore | None = None,
    ) -> None:
        self.dice = random.Random(seed)
        self.wire = brokers[0].wire if brokers else Wire(history=history)
        self.store = store or SlowStore("memory")
        self.brokers = brokers or [LossyBroker(self.wire, loss, self.dice) for _ in range(2)]
        self.nodes = [Node(f"n{n}", broker, [self.store], Metrics()) for n, broker in enumerate(self.brokers)]
        self.feeds = [Feed(self.store, broker, Metrics()) for broker in self.brokers]
        self.count = 0

    async def __aenter__(self) -> Self:
        await self.store.open()
        for node in self.nodes:
            await node.open()
        for feed in self.feeds:
            feed.open()
        await until(lambda: "memory" in self.wire.marks)
        return self

    async def __aexit__(self, *_: object) -> None:
        for feed in self.feeds:
            await feed.close()
        for node in self.nodes:
            await node.close()
        for broker in self.brokers:
            await broker.close()
        await self.store.close()

    async def write(self, key: str | None = None) -> None:
        self.count += 1
        key = key or self.dice.choice(KEYS)
        await self.store.put("things", key, Raw(str(self.count).encode()), ANYHOW)

    async def settle(self) -> None:
        """Until all that was written is in the log, and all that is in the log has passed the nodes."""
        versions = {bytes(value) for value in (await self.store.snapshot("things")).items.values()}
        newest = str(self.count).encode()
        if newest in versions:
            await until(lambda: self._logged(newest))
        for node in self.nodes:
            node._recovered()
        await until(lambda: all(self._passed(node) for node in self.nodes))

    def _logged(self, value: bytes) -> bool:
        events = self.wire.log(CHANNEL).events
        return bool(events) and bytes(events[-1].event.value or b"") == value

    def _passed(self, node: Node) -> bool:
        channel = node._channels.get(CHANNEL)
        log = self.wire.log(CHANNEL)
        place = protocol.Cursor(log.epoch, log.offset)
        shown = all(subscription.line is None for subscription in node._hub.listeners(CHANNEL))
        return channel is None or (channel.position == place and channel.repairing is None and shown)

    async def check(self, *clients: Client) -> None:
        await self.settle()
        items = (await self.store.snapshot("things")).items
        for client in clients:
            client.read()
            assert client.wrong == []
            wanted = {key: bytes(value) for key, value in items.items() if client.key in (None, key)}
            assert {key: bytes(value) for key, value in client.replica.items.items()} == wanted


async def run(seed: int, loss: float, history: int, steps: int = 300) -> None:
    async with Cluster(seed, loss=loss, history=history) as cluster:
        dice = cluster.dice
        clients = [Client(key) for key in (None, None, None, KEYS[0], KEYS[1])]
        pending: set[asyncio.Task[None]] = set()
        for _ in range(steps):
            client = dice.choice(clients)
            step = dice.random()
            if step < 0.5:
                await cluster.write()
            elif step < 0.6 and client.session is not None:
                client.drop(read=dice.random() < 0.5)
            elif step < 0.75 and client.session is None:
                pending.add(asyncio.create_task(client.join(dice.choice(cluster.nodes))))
            elif step < 0.9:
                client.read()
            else:
                await asyncio.sleep(0)
        if pending:
            await asyncio.wait(pending)
        for client in clients:
            if client.session is None:
                await client.join(dice.choice(cluster.nodes))
        await cluster.check(*clients)


@pytest.mark.parametrize("history", [5, 10, 1000])
@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(8))
async def test_every_replica_is_right_in_the_end(seed: int, loss: float, history: int) -> None:
    print(f"seed {seed}")
    await run(seed, loss, history)


# hand-made ----------------------------------------------------------------------------------------------------------


async def test_a_write_between_position_and_snapshot_is_shown_once() -> None:
    async with Cluster() as cluster:
        client = Client(None)
        joining = asyncio.create_task(client.join(cluster.nodes[0]))
        await until(lambda: client.session is not None)
        for _ in range(5):
            await cluster.write("a")
            await asyncio.sleep(0)
        await joining
        await cluster.check(client)


async def test_two_first_joins_at_once() -> None:
    async with Cluster() as cluster:
        await cluster.write("a")
        clients = [Client(None), Client("a"), Client(None)]
        await asyncio.gather(*(client.join(cluster.nodes[0]) for client in clients))
        await cluster.write("a")
        await cluster.check(*clients)


async def test_the_last_leaves_and_another_joins() -> None:
    async with Cluster() as cluster:
        node, first, second = cluster.nodes[0], Client(None), Client(None)
        await first.join(node)
        first.drop(read=True)
        channel = node._channels.get(CHANNEL)
        assert channel is not None
        leaving = asyncio.create_task(node._channels._let_go(channel))
        await second.join(node)
        await leaving
        await cluster.write("a")
        await cluster.check(second)


async def test_a_lost_last_event_is_found_by_comparing_positions() -> None:
    async with Cluster(loss=1.0) as cluster:
        client = Client(None)
        await client.join(cluster.nodes[0])
        await cluster.write("a")
        await until(lambda: cluster._logged(b"1"))
        client.read()
        assert client.replica.items == {}
        cluster.nodes[0]._channels.compare()
        await cluster.check(client)


async def test_a_lost_last_event_is_found_though_nothing_follows() -> None:
    async with Cluster(loss=1.0) as cluster:
        client = Client(None)
        await client.join(cluster.nodes[0])
        await cluster.write("a")
        await until(lambda: cluster._logged(b"1"))
        session = client.session
        assert session is not None
        await until(lambda: session.waiting == 2, 5)
        await cluster.check(client)


async def test_more_channels_than_one_look_is_for_have_each_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one's epoch has ended, all of them are looked at at once."""
    monkeypatch.setattr("realtime.channels.COMPARED", 10)
    monkeypatch.setattr("realtime.channels.CHECK", 3600.0)
    broker = CountingBroker()
    async with Cluster(brokers=[broker]) as cluster:
        node = cluster.nodes[0]
        names = [f"memory/c{number}" for number in range(25)]
        for name in names:
            await node.subscribe(Session(lambda: None), Subscribe(1, name))
        broker.asked.clear()
        for _ in range(3):
            await node._channels._compare_some()
        assert sorted(broker.asked) == sorted(names)
        broker.asked.clear()
        for name in names:
            del cluster.wire.logs[name]  # as if the server had lost all, and told nobody
        await node._channels._compare_some()
        assert set(broker.asked) == set(names)
        await until(lambda: node.metrics.resets.labels("epoch")._value.get() == 25)


async def test_a_channel_is_let_go_some_time_after_its_last_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only then: what others listen to, or come back to, goes on."""
    monkeypatch.setattr("realtime.channels.SWEEP", 0.02)
    monkeypatch.setattr("realtime.channels.IDLE", 0.2)
    broker = MemoryBroker()
    async with Cluster(brokers=[broker]) as cluster:
        node = cluster.nodes[0]
        stays, goes, comes_back = "memory/stays", "memory/goes", "memory/comes"
        await node.subscribe(Session(lambda: None), Subscribe(1, stays))
        for name in (stays, goes, comes_back):
            session = Session(lambda: None)
            await node.subscribe(session, Subscribe(1, name))
            node.release(session)
        await node.subscribe(Session(lambda: None), Subscribe(1, comes_back))
        assert broker.channels == {stays, goes, comes_back}
        await until(lambda: broker.channels == {stays, comes_back})
        assert node._channels.get(goes) is None
        assert node._channels._idle == {}


async def test_what_is_on_its_way_is_not_missing() -> None:
    broker = LateBroker(Wire())
    async with Cluster(brokers=[broker]) as cluster:
        node = cluster.nodes[0]
        await Client(None).join(node)
        broker.late = True
        await cluster.write("a")
        await until(lambda: cluster._logged(b"1"))
        broker.looks.shut()
        looking = asyncio.create_task(node._channels._compare([CHANNEL], flight=0.5))
        await until(lambda: broker.looks.waiting == 1)
        broker.looks.open()
        await until(lambda: broker.looks.waiting == 0)
        broker.hand_over()
        await looking
        assert node.metrics.repairs._value.get() == 0
        channel = node._channels.get(CHANNEL)
        assert channel is not None
        assert (channel.repairing, channel.place.offset) == (None, 1)


async def test_a_hole_is_counted_and_told_once_however_deep(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "realtime.channels")
    broker = LateBroker(Wire())
    async with Cluster(brokers=[broker]) as cluster:
        client, node = Client(None), cluster.nodes[0]
        await client.join(node)
        broker.late = True
        for _ in range(900):
            await cluster.write("a")
        await until(lambda: cluster._logged(b"900"))
        broker.lose()
        await cluster.write("a")
        await cluster.check(client)
        assert node.metrics.repairs._value.get() == 1
    why = "an event did not follow the last one"
    assert caplog.messages == [f"repaired {CHANNEL}, as {why}: 901 events from the history"]


async def test_a_reset_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster() as cluster:
        clients, node = [Client(None), Client(None), Client("a")], cluster.nodes[0]
        for client in clients:
            await client.join(node)
        await cluster.wire.leases["memory"].renew(["things"], "test")
        await cluster.check(*clients)
        assert node.metrics.resets.labels("epoch")._value.get() == 1
    told = [record.getMessage() for record in caplog.records if record.name == "realtime.channels"]
    assert told == [f"reset of {CHANNEL} (epoch), as its epoch ended"]


async def test_a_log_that_went_back_is_noticed() -> None:
    async with Cluster() as cluster:
        client, node = Client(None), cluster.nodes[0]
        await client.join(node)
        await cluster.write("a")
        await cluster.settle()
        log = cluster.wire.log(CHANNEL)
        log.offset, log.version = 0, ""
        log.events.clear()
        await node._channels._compare([CHANNEL])
        await until(lambda: node.metrics.resets.labels("future")._value.get() == 1)
        await cluster.write("a")
        await cluster.check(client)


async def test_events_that_arrive_twice_late_or_out_of_order_change_nothing() -> None:
    async with Cluster() as cluster:
        client = Client(None)
        node = cluster.nodes[0]
        await client.join(node)
        for _ in range(4):
            await cluster.write("a")
        await cluster.settle()
        events = list(cluster.wire.log(CHANNEL).events)
        for disorder in (events, events[:2], events[::-1], [events[-1]]):
            node._channels.deliver(CHANNEL, disorder)
        await cluster.write("a")
        await cluster.check(client)


async def test_a_new_epoch_resets_live_sessions_and_those_that_join() -> None:
    async with Cluster() as cluster:
        live, joining = Client(None), Client("a")
        await live.join(cluster.nodes[0])
        await cluster.write("a")
        await cluster.settle()
        join = asyncio.create_task(joining.join(cluster.nodes[0]))
        await until(lambda: joining.session is not None)
        await cluster.wire.leases["memory"].renew(None, "test")
        await join
        await cluster.write("a")
        await cluster.check(live, joining)
        assert cluster.nodes[0].metrics.resets.labels("epoch")._value.get() == 1


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [("v1.other.1", "epoch"), ("v1.{epoch}.99", "future"), ("v1.{epoch}.0", "trimmed"), ("v1.{epoch}.12", "")],
)
async def test_stale_future_and_foreign_cursors_have_each_their_answer(cursor: str, reason: str) -> None:
    async with Cluster(history=5) as cluster:
        for _ in range(12):
            await cluster.write("a")
        await until(lambda: cluster._logged(b"12"))
        session = Session(lambda: None)
        text = cursor.format(epoch=cluster.wire.log(CHANNEL).epoch)
        await cluster.nodes[0].subscribe(session, Subscribe(1, CHANNEL, None, text))
        answer = session.take()[0]
        assert isinstance(answer, Subscribed)
        assert answer.reason == reason
        assert (answer.items is None) == (reason == "")


async def test_two_selections_that_resume_apart_miss_nothing() -> None:
    """What is logged between the two resumes, and still on its way here, must not move the first one's cursor."""
    broker = LateBroker(Wire())
    async with Cluster(brokers=[broker]) as cluster:
        node = cluster.nodes[0]
        await Client(None).join(node)
        await cluster.write("b")
        await cluster.write("a")
        await until(lambda: cluster._logged(b"2"))
        epoch = cluster.wire.log(CHANNEL).epoch
        # The second one's is older, so that the history that the first one read will not do for it.
        cursors, told = [f"v1.{epoch}.1", f"v1.{epoch}.0"], list[Event]()
        for late in (True, False):
            session = Session(lambda: None)
            first = await node.subscribe(session, Subscribe(0, CHANNEL, "a", cursors[0]))
            if late:
                broker.late = True
                await cluster.write("a")
                await cluster.write("b")
                await until(lambda: cluster._logged(b"4"))
            second = await node.subscribe(session, Subscribe(1, CHANNEL, "b", cursors[1]))
            node.refresh(session)
            told += [each.event for each in session.take() if isinstance(each, Placed)]
            cursors = [str(first.cursor), str(second.cursor)]
            node.release(session)
            broker.hand_over()
        assert [bytes(event.value) for event in told if isinstance(event.value, Raw)] == [b"2", b"1", b"4", b"3"]


async def test_a_repair_does_not_overflow_a_client_that_reads() -> None:
    broker = LateBroker(Wire())
    async with Cluster(brokers=[broker]) as cluster:
        client = Client(None)
        await client.join(cluster.nodes[0])
        broker.late = True
        for number in range(600):
            await cluster.store.put("things", str(number), Raw(b'"%s"' % (b"x" * 2000)), ANYHOW)
        await until(lambda: cluster.wire.log(CHANNEL).offset == 600)
        broker.late = False
        cluster.nodes[0]._recovered()
        assert client.session is not None
        events = 0
        while events < 600 and not client.session.overflown:
            events += sum(isinstance(message, Placed) for message in client.session.take())
            await asyncio.sleep(0)
        assert events == 600


async def test_more_history_than_an_answer_can_hold_is_answered_with_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the client would be cut off for being too slow, come back with the same cursor, and so for ever."""
    monkeypatch.setattr("realtime.joins.MAX_HISTORY", 1000)
    async with Cluster() as cluster:
        for _ in range(20):
            await cluster.write("a")
        await cluster.write("b")
        await until(lambda: cluster._logged(b"21"))
        start = f"v1.{cluster.wire.log(CHANNEL).epoch}.0"
        session = Session(lambda: None)
        await cluster.nodes[0].subscribe(session, Subscribe(1, CHANNEL, None, start))
        await cluster.nodes[0].subscribe(session, Subscribe(2, CHANNEL, "b", start))
        every, one, event = session.take()
        assert isinstance(every, Subscribed)
        assert (every.reason, list(every.items or ())) == ("trimmed", ["a", "b"])
        assert isinstance(one, Subscribed)
        assert one.items is None
        assert isinstance(event, Placed)


async def test_a_reset_that_cannot_be_shown_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def odd(*_: object, **__: object) -> Snapshot:
        raise ValueError("a driver's")

    async with Cluster() as cluster:
        client, node = Client(None), cluster.nodes[0]
        await client.join(node)
        assert client.session is not None
        client.session.take()
        with monkeypatch.context() as broken:
            broken.setattr(cluster.store, "snapshot", odd)
            await cluster.wire.leases["memory"].renew(["things"], "test")
            await until(lambda: client.session is not None and client.session.waiting > 0)
        (failure,) = client.session.take()
        assert isinstance(failure, protocol.Failure)
        assert (failure.id, failure.code) == (1, "internal")
        assert client.session.subscriptions == {}
        assert not node._hub.listening(CHANNEL)
        client.drop(read=False)
        client.replica.cursor = None
        await client.join(node)
        await cluster.write("a")
        await cluster.check(client)


async def test_a_reset_that_waits_for_its_store_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object, **__: object) -> Snapshot:
        raise StoreDown("away")

    broker = LateBroker(Wire())
    async with Cluster(brokers=[broker]) as cluster:
        node, waiting, resumed = cluster.nodes[0], Client(None), Client(None)
        await waiting.join(node)
        with monkeypatch.context() as outage:
            outage.setattr(cluster.store, "snapshot", down)
            await cluster.wire.leases["memory"].renew(["things"], "test")
            await until(lambda: node.metrics.resets.labels("epoch")._value.get() == 1)
            resumed.replica.cursor = f"v1.{cluster.wire.log(CHANNEL).epoch}.0"
            await resumed.join(node)
            broker.late = True
            await cluster.write("lost on its way")
            await until(lambda: cluster._logged(b"1"))
            broker.lose()
            await cluster.write("shows the hole")
            await until(lambda: resumed.session is not None and resumed.session.waiting == 3)
        await cluster.check(waiting, resumed)


async def test_a_channel_that_is_let_go_in_its_reset_is_followed_again() -> None:
    broker = LateBroker(Wire())
    async with Cluster(brokers=[broker]) as cluster:
        node, first, second = cluster.nodes[0], Client(None), Client(None)
        await first.join(node)
        channel = node._channels.get(CHANNEL)
        assert channel is not None
        broker.looks.shut()
        broker.unsubscribes.shut()
        await cluster.wire.leases["memory"].renew(["things"], "test")
        await until(lambda: broker.looks.waiting == 1)  # the reset
        first.drop(read=True)
        leaving = asyncio.create_task(node._channels._let_go(channel))
        await until(lambda: broker.unsubscribes.waiting == 1)
        joining = asyncio.create_task(second.join(node))
        await until(lambda: node._hub.listening(CHANNEL))
        broker.looks.open()
        await until(lambda: broker.looks.waiting == 0 and channel.repairing is None)
        broker.unsubscribes.open()
        await asyncio.wait([leaving, joining])
        assert CHANNEL in broker.channels
        await cluster.write("a")
        await until(lambda: cluster._logged(b"1"))
        second.read()
        assert bytes(second.replica.items["a"]) == b"1"
        await cluster.check(second)


async def test_many_channels_are_joined_a_few_at_a_time() -> None:
    broker = BusyBroker()
    async with Cluster(brokers=[broker]) as cluster:
        requests = [Subscribe(1, f"memory/c{number}") for number in range(channels.BEGINNING * 3)]
        await asyncio.gather(*(cluster.nodes[0].subscribe(Session(lambda: None), each) for each in requests))
        assert broker.subscribes.most == channels.BEGINNING


async def test_many_channels_are_healed_a_few_at_a_time() -> None:
    """All at once they would wait for the same few connections until their time is over, and then all again."""
    broker, store = BusyBroker(), BusyStore()
    async with Cluster(brokers=[broker], store=store) as cluster:
        node = cluster.nodes[0]
        sessions = [Session(lambda: None) for _ in range(40)]
        for number, session in enumerate(sessions):
            await node.subscribe(session, Subscribe(1, f"memory/c{number}"))
            session.take()
        await cluster.wire.leases["memory"].renew(None, "test")
        await until(lambda: all(session.waiting for session in sessions))
        assert broker.histories.most == channels.AT_ONCE
        assert store.snapshots.most == resets.AT_ONCE


# negative controls: with its guard off, the checker has to see it ----------------------------------------------------


async def test_the_checker_sees_a_missing_gap_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def follows(self: object, event: Placed) -> bool:
        return True

    monkeypatch.setattr("realtime.channels.Channel.follows", follows)
    assert await _failures(loss=0.1, history=1000)


async def test_the_checker_sees_a_missing_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStore, "contains", lambda *_: False)
    assert await _failures(loss=0.0, history=1000)


async def _failures(loss: float, history: int) -> int:
    """Of some seeds, how many the checker calls wrong."""
    failed = 0
    for seed in range(10):
        try:
            await run(seed, loss, history)
        except (AssertionError, TimeoutError):
            failed += 1
    return failed
