"""The channels that this node follows, and what keeps each of them whole.

Deliveries may get lost or arrive twice; offsets show it. What follows a channel's position is passed to the hub; a hole
is filled from the history, in order; where history is gone, each session gets a new snapshot (`reset`). So the hub
sees every event once and in order, and knows nothing of all this.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile

from .brokers.base import Broker
from .errors import BrokerDown, CursorLost
from .hub import Hub
from .metrics import Metrics
from .protocol import Cursor, Placed
from .resets import Drop, Read, Resets
from .subscription import Subscription
from .tasks import Tasks, delays

log = logging.getLogger("realtime.channels")

IDLE = 5.0  # seconds that a channel without listeners is still followed: polls come and go
SWEEP = 1.0  # seconds between two looks for such channels
PATIENCE = 3.0  # seconds that a subscribe waits for a repair
AT_ONCE = 8  # repairs; more would only wait for each other, and their time run out
BEGINNING = 64  # channels that begin to be followed; the same
BREATH = 1 << 16  # bytes of events passed on in one go
CHECK = 2.0  # seconds between two comparisons of positions with the log's
COMPARED = 2000  # channels in one of them, and so a few ms of Redis' time; of more, each has its turn
FLIGHT = 0.3  # seconds that a delivery may take, which is on its way while the positions are read

Heard = Callable[[Placed], None]


class Channel:
    """One channel that this node follows, and how far it has passed it on."""

    __slots__ = ("lock", "missing", "name", "position", "repairing", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = asyncio.Lock()  # beginning and ceasing to follow, one at a time
        self.position: Cursor | None = None  # None: not followed
        self.version = ""  # of the newest event passed on
        self.missing = ""  # why a repair has to look (again)
        self.repairing: asyncio.Task[None] | None = None

    @property
    def place(self) -> Cursor:
        if self.position is None:
            raise BrokerDown(f"{self.name} is not followed any more")
        return self.position

    def follows(self, event: Placed) -> bool:
        position, cursor = self.position, event.cursor
        return position is not None and position.epoch == cursor.epoch and position.offset + 1 == cursor.offset

    def has(self, place: Cursor) -> bool:
        position = self.position
        return position is not None and position.epoch == place.epoch and position.offset >= place.offset


class Channels:
    """`read` reads a snapshot; `heard` is told of each event that was passed on; `drop` ends a subscription."""

    def __init__(self, broker: Broker, hub: Hub, metrics: Metrics, read: Read, heard: Heard, drop: Drop) -> None:
        self._broker, self._hub, self._metrics = broker, hub, metrics
        self._heard, self._resets = heard, Resets(read, drop)
        self._channels: dict[str, Channel] = {}
        self._idle: dict[str, float] = {}  # since when nobody listens, the longest first
        self._round: Iterator[str] = iter(())  # names whose positions are still to be compared
        self._turn, self._beginning = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(BEGINNING)
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.every(SWEEP, self._let_idle_go, "idle channels")
        self._tasks.every(CHECK, self._compare_some, "positions")

    async def close(self) -> None:
        await self._tasks.close()
        await self._resets.close()

    # following ------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Channel | None:
        return self._channels.get(name)

    async def follow(self, name: str) -> Channel:
        """The channel, followed: from its position on, every event reaches the hub. Its listener is there already."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name)
            self._metrics.channels.set(len(self._channels))
        async with channel.lock:
            if channel.position is None:
                async with self._beginning:
                    await self._broker.subscribe(name)
                    [channel.position] = await self._broker.positions([name])
                if channel.missing:  # it came while the position was on its way, which may be from before or after it
                    self._start_repair(channel)
        return channel

    def left(self, name: str) -> None:
        """Somebody who listened to it has gone."""
        if name in self._channels and not self._hub.listening(name):
            self._idle.pop(name, None)
            self._idle[name] = time.monotonic()

    async def _let_idle_go(self) -> None:
        """Stop following what nobody has listened to for a while."""
        before = time.monotonic() - IDLE
        for name in list(takewhile(lambda name: self._idle[name] < before, self._idle)):
            if self._idle.get(name, before) < before:  # else somebody came and went while we waited for another
                del self._idle[name]
                if not self._hub.listening(name) and (channel := self._channels.get(name)) is not None:
                    await self._let_go(channel)

    async def _let_go(self, channel: Channel) -> None:
        async with channel.lock:
            if self._hub.listening(channel.name):
                return
            channel.position, channel.version, channel.missing = None, "", ""
            await self._broker.unsubscribe(channel.name)
            if not self._hub.listening(channel.name):  # else its listener waits for the lock and begins anew
                del self._channels[channel.name]
                self._metrics.channels.set(len(self._channels))

    # delivering -----------------------------------------------------------------------------------------------------

    def deliver(self, name: str, events: Sequence[Placed]) -> None:
        """The broker's callback. No events: the channel's epoch changed."""
        channel = self._channels.get(name)
        if channel is None:
            return
        if not events:
            self.repair(channel, "its epoch ended")
        for event in events:
            if channel.follows(event):
                self._pass_on(channel, event)
            elif not channel.has(event.cursor):
                self.repair(channel, "an event did not follow the last one")

    def _pass_on(self, channel: Channel, event: Placed) -> None:
        channel.position, channel.version = event.cursor, event.event.version
        self._metrics.deliveries.inc(self._hub.deliver(channel.name, event))
        self._heard(event)

    def show(self, subscription: Subscription, reason: str) -> None:
        """It sees something else from now on: show it the state anew."""
        if (channel := self._channels.get(subscription.channel)) is not None:
            self._resets.show(channel.name, lambda: channel.place, [subscription], reason)

    # repairing ------------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Look at once where every channel stands: deliveries are missing."""
        self._tasks.start(self._compare_all("deliveries had broken off", 0.0), "positions after a break")

    async def _compare_all(self, why: str, flight: float) -> None:
        names = list(self._channels)
        for start in range(0, len(names), COMPARED):
            await self._compare(names[start : start + COMPARED], why, flight)

    async def _compare_some(self) -> None:
        """The next ones in turn. Where one's epoch has ended the server lost its past, and so did the others."""
        names = list(islice(self._round, COMPARED))
        if not names:
            self._round = iter(list(self._channels))
            names = list(islice(self._round, COMPARED))
        if await self._compare(names) and len(self._channels) > COMPARED:
            await self._compare_all("another's epoch had ended", FLIGHT)

    async def _compare(self, names: Sequence[str], why: str = "the log was elsewhere", flight: float = FLIGHT) -> bool:
        """One look for all of these: it shows also a lost event after which nothing came. Whether an epoch ended."""
        channels = {name: each for name in names if (each := self._channels.get(name)) is not None}
        before = {name: each.position for name, each in channels.items() if each.position is not None}
        try:
            places = dict(zip(before, await self._broker.positions(list(before)), strict=True))
        except BrokerDown:
            return False  # the next look is soon
        differing = [name for name in before if before[name] != places[name]]
        if differing:
            await asyncio.sleep(flight)
        for name in differing:
            channel = self._channels.get(name)
            if channel is not None and (channel.position == before[name] or not channel.has(places[name])):
                self.repair(channel, why)
        return any(before[name].epoch != places[name].epoch for name in differing)

    def repair(self, channel: Channel, why: str) -> None:
        channel.missing = channel.missing or why
        if channel.position is not None:
            self._start_repair(channel)

    async def repaired(self, channel: Channel) -> None:
        """Looked at, or not within seconds: the broker may be down."""
        self.repair(channel, "a client knew a newer epoch")
        if channel.repairing is not None:
            await asyncio.wait([channel.repairing], timeout=PATIENCE)

    def _start_repair(self, channel: Channel) -> None:
        if channel.repairing is None:
            channel.repairing = self._tasks.start(self._mend(channel), f"repair {channel.name}")

    async def _mend(self, channel: Channel) -> None:
        pauses = delays()
        try:
            while channel.missing and channel.position is not None:
                try:
                    async with self._turn:
                        why, channel.missing = channel.missing, ""
                        await self._catch_up(channel, channel.place, why)
                except BrokerDown:
                    channel.missing = why
                    await asyncio.sleep(next(pauses))
        finally:
            channel.repairing = None

    async def _catch_up(self, channel: Channel, position: Cursor, why: str) -> None:
        try:
            missed = await self._broker.history(channel.name, position)
        except CursorLost as lost:
            await self._reset(channel, lost.reason, why)
        else:
            await self._fill(channel, missed, why)

    async def _fill(self, channel: Channel, missed: Sequence[Placed], why: str) -> None:
        events = passed = 0
        for event in filter(channel.follows, missed):  # it may have been delivered after all, meanwhile
            events += 1
            self._pass_on(channel, event)
            passed += len(event.json)
            if passed > BREATH:
                passed = 0
                await asyncio.sleep(0)  # for the transports: sessions must not fill up while we hold the loop
        if events:
            self._metrics.repairs.inc()
            log.info("repaired %s, as %s: %d events from the history", channel.name, why, events)

    async def _reset(self, channel: Channel, reason: str, why: str) -> None:
        """Give every session of the channel the state anew."""
        before = channel.position
        [position] = await self._broker.positions([channel.name])
        if channel.position is not before:  # let go meanwhile, perhaps followed anew: look again
            channel.missing = why
            return
        log.warning("reset of %s (%s), as %s", channel.name, reason, why)
        self._metrics.resets.labels(reason).inc()
        channel.position, channel.version = position, ""
        listeners = list(self._hub.listeners(channel.name))
        self._resets.show(channel.name, lambda: channel.place, listeners, reason)
