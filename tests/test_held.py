"""Schedules held by hand: a join, a repair or a leave stops at one of its steps, and something happens just then.

Random schedules hit these moments rarely, and what is lost in one of them is often made up for by the next event or
the next comparison of positions. So here nothing comes after it, and nobody compares.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec import Raw

from realtime.brokers.memory import Wire
from realtime.channels import Channel
from realtime.errors import BrokerDown
from realtime.node import Node
from realtime.protocol import Cursor, Placed
from realtime.stores.base import Snapshot
from realtime.stores.memory import MemoryStore
from tests.test_schedules import CHANNEL, Client, Cluster, Gate, LateBroker
from tests.wait import until

pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs]


@pytest.fixture(autouse=True)
def no_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.channels.CHECK", 3600.0)


class HeldBroker(LateBroker):
    """Each call can be held, on its way or on its way back; what is delivered while it is `late` is lost."""

    def __init__(self, history: int = 1000) -> None:
        super().__init__(Wire(history=history))
        self.subscribing, self.subscribes, self.asking, self.histories = Gate(), Gate(), Gate(), Gate()
        self.refuses = 0  # so many subscribes fail

    async def subscribe(self, channel: str) -> None:
        await self.subscribing.passed()
        if self.refuses:
            self.refuses -= 1
            raise BrokerDown("refused")
        await super().subscribe(channel)
        await self.subscribes.passed()

    async def unsubscribe(self, channel: str) -> None:
        await self.unsubscribes.passed()
        await super().unsubscribe(channel)

    async def history(self, channel: str, after: Cursor) -> list[Placed]:
        await self.asking.passed()
        found = await super().history(channel, after)
        await self.histories.passed()
        return found


class HeldStore(MemoryStore):
    """A snapshot can be held before its moment, and after it."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.before, self.after = Gate(), Gate()

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        await self.before.passed()
        snapshot = await super().snapshot(collection, keys, after=after, limit=limit)
        await self.after.passed()
        return snapshot


class Listener(Client):
    """Writes down every value that it is told, be it in items or as an event."""

    def __init__(self, key: str | None = None) -> None:
        super().__init__(key)
        self.told: list[int] = []

    def _not_older(self, key: str, value: Raw) -> None:
        super()._not_older(key, value)
        self.told.append(int(bytes(value)))

    async def hears(self, *values: int) -> None:
        """These and no others, in this order."""

        def heard() -> bool:
            self.read()
            return self.told[-1:] == [values[-1]]

        await until(heard)
        assert self.told == list(values)
        assert self.wrong == []


class Held(Cluster):
    """One node, and a gate at each step."""

    def __init__(self, *, history: int = 1000) -> None:
        self.broker, self.held = HeldBroker(history), HeldStore()
        super().__init__(brokers=[self.broker], store=self.held)
        self.gates = {
            "before the subscription": self.broker.subscribing,
            "after the subscription": self.broker.subscribes,
            "after the position": self.broker.looks,
            "before the history": self.broker.asking,
            "after the history": self.broker.histories,
            "before the end": self.broker.unsubscribes,
            "before the snapshot": self.held.before,
            "after the snapshot": self.held.after,
        }

    @property
    def node(self) -> Node:
        return self.nodes[0]

    @property
    def channel(self) -> Channel:
        channel = self.node._channels.get(CHANNEL)
        assert channel is not None
        return channel

    async def writes(self, *, lost: bool = False) -> None:
        """The next number, until it has been delivered, or lost."""
        self.broker.late = lost
        await self.write("a")
        await until(lambda: self._logged(b"%d" % self.count))
        self.broker.late = False

    async def let_go(self) -> None:
        await self.node._channels._let_go(self.channel)
        assert CHANNEL not in self.broker.channels

    @asynccontextmanager
    async def stopped_at(self, step: str) -> AsyncIterator[None]:
        """From when somebody has come to this step until the end of the block; nobody is there yet."""
        gate = self.gates[step]
        await until(lambda: gate.waiting > 0)
        yield
        gate.open()

    def shut(self, step: str) -> None:
        self.gates[step].shut()


# joining while others publish ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "a"])
@pytest.mark.parametrize(
    ("step", "followed", "told"),
    [
        ("before the subscription", False, [2]),
        ("after the subscription", False, [2]),
        ("after the position", False, [2]),
        ("before the snapshot", False, [2]),
        ("after the snapshot", False, [1, 2]),
        ("before the snapshot", True, [2]),
        ("after the snapshot", True, [1, 2]),
    ],
)
async def test_a_write_at_any_step_of_a_join_is_told_once(
    step: str, followed: bool, told: list[int], key: str | None
) -> None:
    """In the snapshot or as an event; whether or not the node follows the channel for somebody else."""
    async with Held() as held:
        if followed:
            await Listener().join(held.node)
        await held.writes()
        client = Listener(key)
        held.shut(step)
        joining = asyncio.create_task(client.join(held.node))
        async with held.stopped_at(step):
            await held.writes()
        await joining
        await client.hears(*told)
        await held.writes()
        await client.hears(*told, 3)


@pytest.mark.parametrize(
    ("step", "followed", "missed"),
    [
        ("before the subscription", False, 0),
        ("after the subscription", False, 0),
        ("after the position", False, 0),
        ("before the history", False, 1),
        ("after the history", False, 1),
        ("before the history", True, 1),
        ("after the history", True, 1),
    ],
)
async def test_a_write_at_any_step_of_a_resume_is_told_once(step: str, followed: bool, missed: int) -> None:
    """Besides those that were missed; also where the position was read in time to be that of the cursor."""
    async with Held() as held:
        client = Listener()
        await client.join(held.node)
        await held.writes()
        client.drop(read=True)
        await held.let_go()
        if followed:
            await Listener().join(held.node)
        for _ in range(missed):
            await held.writes()
        held.shut(step)
        joining = asyncio.create_task(client.join(held.node))
        async with held.stopped_at(step):
            await held.writes()
        await joining
        await client.hears(*range(1, held.count + 1))
        await held.writes()
        await client.hears(*range(1, held.count + 1))


# repairs -------------------------------------------------------------------------------------------------------------


async def test_events_that_arrive_during_a_repair_are_told_behind_what_it_finds() -> None:
    async with Held() as held:
        client = Listener()
        await client.join(held.node)
        await held.writes(lost=True)
        held.shut("after the history")
        await held.writes()  # shows the hole
        async with held.stopped_at("after the history"):
            await held.writes()
            await held.writes()
        await client.hears(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("step", "told"), [("after the position", [4]), ("before the snapshot", [4]), ("after the snapshot", [3, 4])]
)
async def test_events_that_arrive_during_a_reset_are_told_once(step: str, told: list[int]) -> None:
    """To those who listen to all keys, and to those of one, who are shown theirs apart."""
    async with Held(history=1) as held:
        every, one = Listener(), Listener("a")
        for client in (every, one):
            await client.join(held.node)
        for _ in range(2):
            await held.writes(lost=True)
        held.shut(step)
        await held.writes()  # shows a hole that the history cannot fill
        async with held.stopped_at(step):
            await held.writes()
        await every.hears(*told)
        await one.hears(*told)
        assert held.node.metrics.resets.labels("trimmed")._value.get() == 1


# two first joins at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [None, 0, 1])
async def test_of_two_first_joins_at_once_each_hears_whoever_leaves(leaves: int | None) -> None:
    """Neither is answered before the broker has confirmed, and what one leaves behind takes nothing from the other."""
    async with Held() as held:
        clients = [Listener(), Listener("a")]
        held.shut("after the subscription")
        joining = [asyncio.create_task(client.join(held.node)) for client in clients]
        await until(lambda: len(list(held.node._hub.listeners(CHANNEL))) == 2)
        async with held.stopped_at("after the subscription"):
            assert [client.session.take() for client in clients if client.session] == [[], []]
            if leaves is not None:
                joining[leaves].cancel()
                await asyncio.wait([joining[leaves]])
        await asyncio.wait(joining)
        await held.writes()
        for number, client in enumerate(clients):
            if number != leaves:
                await client.hears(1)
                client.drop(read=True)
        assert not held.node._hub.listening(CHANNEL)


async def test_a_first_join_that_is_refused_takes_nothing_from_the_second() -> None:
    async with Held() as held:
        refused, joined = Listener(), Listener()
        held.broker.refuses = 1
        held.shut("before the subscription")
        joining = [asyncio.create_task(client.join(held.node)) for client in (refused, joined)]
        async with held.stopped_at("before the subscription"):
            pass
        with pytest.raises(BrokerDown):
            await joining[0]
        await joining[1]
        await held.writes()
        await joined.hears(1)


async def test_the_position_of_a_slower_first_join_takes_no_one_back() -> None:
    async with Held() as held:
        await held.writes()
        slower, other = Listener(), Listener()
        held.shut("after the position")
        joining = [asyncio.create_task(slower.join(held.node))]
        async with held.stopped_at("after the position"):
            held.broker.looks = Gate()  # only the first one is held
            joining.append(asyncio.create_task(other.join(held.node)))
            for _ in range(10):  # turns in which it might join
                await asyncio.sleep(0)
            await held.writes()
        await asyncio.gather(*joining)
        await held.writes()
        await slower.hears(2, 3)
        await other.hears(2, 3)


# the last listener leaves, another joins -----------------------------------------------------------------------------


@pytest.mark.parametrize("between", [None, "a write", "a join that is given up"])
async def test_who_joins_while_the_last_one_s_channel_is_let_go_hears(between: str | None) -> None:
    async with Held() as held:
        first, second = Listener(), Listener()
        await first.join(held.node)
        first.drop(read=True)
        held.shut("before the end")
        leaving = asyncio.create_task(held.node._channels._let_go(held.channel))
        async with held.stopped_at("before the end"):
            if between == "a join that is given up":
                given_up = asyncio.create_task(Listener().join(held.node))
                await until(lambda: held.node._hub.listening(CHANNEL))
                given_up.cancel()
                await asyncio.wait([given_up])
            if between == "a write":
                await held.writes()
            joining = asyncio.create_task(second.join(held.node))
            await until(lambda: held.node._hub.listening(CHANNEL))
            for _ in range(10):  # turns in which it might subscribe too early
                await asyncio.sleep(0)
        await asyncio.gather(leaving, joining)
        await held.writes()
        await second.hears(*range(1, held.count + 1))


@pytest.mark.parametrize(
    "step", ["before the subscription", "after the subscription", "after the position", "after the snapshot"]
)
async def test_a_channel_that_somebody_joins_is_not_let_go(step: str) -> None:
    async with Held() as held:
        client = Listener()
        held.shut(step)
        joining = asyncio.create_task(client.join(held.node))
        async with held.stopped_at(step):
            leaving = asyncio.create_task(held.node._channels._let_go(held.channel))
            await asyncio.sleep(0)
        await asyncio.gather(leaving, joining)
        await held.writes()
        await client.hears(1)
