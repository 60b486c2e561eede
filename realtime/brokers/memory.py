"""The broker of nodes that live in one process: the contract without a server, for tests and for trying things out.

What the Redis broker keeps in Redis, these brokers keep in the `Wire` that joins them. Deliveries are made within
`publish`, so that their order is that of the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex

from ..errors import BrokerDown, CursorLost
from ..protocol import Change, Cursor, Placed, closing, opening
from .base import Broken, Deliver, LeaseLost, Recovered
from .hold import holding


class _Log:
    """One channel: its epoch, and the newest of its events."""

    def __init__(self, history: int) -> None:
        self.epoch = token_hex(6)
        self.offset = 0
        self.version = ""
        self.events: deque[Placed] = deque(maxlen=history)

    def append(self, channel: str, changes: Sequence[Change]) -> list[Placed]:
        events = [self._place(channel, change) for change in changes if change.version > self.version]
        self.events.extend(events)
        return events

    def _place(self, channel: str, change: Change) -> Placed:
        self.offset += 1
        self.version = change.version
        return Placed.decode(opening(channel, change) + closing(self.epoch, self.offset))


class Wire:
    """What joins the brokers: the logs, the marks, the leases, and who listens to what."""

    def __init__(self, *, history: int = 1000) -> None:
        self.history = history
        self.logs: dict[str, _Log] = {}
        self.marks: dict[str, str] = {}
        self.leases: dict[str, MemoryLease] = {}
        self.brokers: list[MemoryBroker] = []

    def log(self, channel: str) -> _Log:
        if channel not in self.logs:
            self.logs[channel] = _Log(self.history)
        return self.logs[channel]

    def carry(self, channel: str, events: Sequence[Placed]) -> None:
        for broker in self.brokers:
            if channel in broker.channels:
                broker._deliver(channel, events)


class MemoryLease:
    def __init__(self, wire: Wire, store: str, before: str) -> None:
        self._wire, self._store, self.before = wire, store, before
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.mark = wire.marks.get(store)

    async def keep(self, mark: str) -> None:
        self._check()
        self._wire.marks[self._store] = mark

    async def renew(self, collections: Sequence[str] | None, reason: str) -> None:
        self._check()
        channels = (
            [name for name in self._wire.logs if name.startswith(f"{self._store}/")]
            if collections is None
            else [f"{self._store}/{collection}" for collection in collections]
        )
        for channel in channels:
            self._wire.logs.pop(channel, None)
            self._wire.carry(channel, ())

    def lose(self, reason: str) -> None:
        """Let the next one have it."""
        if self._wire.leases.get(self._store) is self:
            del self._wire.leases[self._store]
        if not self.lost.done():
            self.lost.set_result(reason)

    def _check(self) -> None:
        if self.lost.done():
            raise LeaseLost(self.lost.result())


class MemoryBroker:
    """One node's end of the wire."""

    def __init__(self, wire: Wire | None = None, *, history: int = 1000) -> None:
        self.wire = wire or Wire(history=history)
        self.channels: set[str] = set()
        self._leases: list[MemoryLease] = []

    async def open(self, deliver: Deliver, recovered: Recovered, broken: Broken) -> None:
        self._deliver = deliver
        self.wire.brokers.append(self)

    async def close(self) -> None:
        if self in self.wire.brokers:
            self.wire.brokers.remove(self)
        for lease in list(self._leases):
            lease.lose("the broker was closed")

    async def publish(self, channel: str, changes: Sequence[Change]) -> None:
        self._check()
        store = channel.partition("/")[0]
        if self.wire.leases.get(store) not in self._leases:
            raise LeaseLost(f"the lease of {store} is not held here")
        if events := self.wire.log(channel).append(channel, changes):
            self.wire.carry(channel, events)

    async def subscribe(self, channel: str) -> None:
        self._check()
        self.channels.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        self.channels.discard(channel)

    async def positions(self, channels: Sequence[str]) -> list[Cursor]:
        self._check()
        return [Cursor(log.epoch, log.offset) for log in map(self.wire.log, channels)]

    async def history(self, channel: str, after: Cursor) -> list[Placed]:
        self._check()
        log = self.wire.log(channel)
        missed = log.offset - after.offset
        if after.epoch != log.epoch:
            raise CursorLost("epoch")
        if missed < 0:
            raise CursorLost("future")
        if missed > len(log.events):
            raise CursorLost("trimmed")
        return list(log.events)[len(log.events) - missed :]

    @asynccontextmanager
    async def lease(self, store: str) -> AsyncIterator[MemoryLease]:
        before = ""
        while (other := self.wire.leases.get(store)) is not None:
            await asyncio.wait([other.lost])
            before = f"another's ended: {other.lost.result()}"
        self._check()
        lease = self.wire.leases[store] = MemoryLease(self.wire, store, before)
        self._leases.append(lease)
        try:
            async with holding(_outcome(lease.lost), f"lease {store}"):
                yield lease
        finally:
            self._leases.remove(lease)
            lease.lose("released")

    def _check(self) -> None:
        if self not in self.wire.brokers:
            raise BrokerDown("the broker is not open")


async def _outcome(lost: asyncio.Future[str]) -> str:
    return await asyncio.shield(lost)
