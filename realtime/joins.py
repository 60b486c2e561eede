"""Answers to a subscribe: a snapshot, or what came after a cursor; then live.

The subscription listens already, so that what happens meanwhile waits in its line. The position is known before
anything is read, so that what is read may be ahead of it but never behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .brokers.base import Broker
from .channels import Channel, Channels
from .errors import CursorLost
from .metrics import Metrics
from .protocol import Cursor, Placed
from .resets import Read
from .shared import Shared
from .stores.base import Snapshot
from .subscription import Subscription

MAX_HISTORY = 1 << 23  # bytes of events in one answer; the items are less


class History:
    """What came after an offset, or why that cannot be known; for all who ask at once."""

    def __init__(self, after: int, events: Sequence[Placed] = (), lost: CursorLost | None = None) -> None:
        self.after, self.events, self.lost = after, events, lost
        self._by_key: dict[str, list[Placed]] = defaultdict(list)
        for event in events:
            self._by_key[event.event.key].append(event)

    @property
    def newest(self) -> int:
        """The offset up to which this is all."""
        return self.events[-1].cursor.offset if self.events else self.after

    def since(self, offset: int, key: str | None) -> list[Placed]:
        """Of a key, or of all; it costs by what it gives."""
        events = self.events if key is None else self._by_key.get(key, ())
        return [event for event in events if event.cursor.offset > offset]


class Joins:
    """`read` reads a snapshot. What many ask for at once is read once."""

    def __init__(self, broker: Broker, channels: Channels, metrics: Metrics, read: Read) -> None:
        self._broker, self._channels, self._metrics, self._read = broker, channels, metrics, read
        self._snapshots, self._histories = Shared(self._snapshot), Shared(self._history)

    async def join(self, subscription: Subscription, cursor: Cursor | None) -> None:
        reason = ""
        while True:
            subscription.begin()
            channel = await self._channels.follow(subscription.channel)
            if cursor is None:
                done = await self._show(subscription, channel.place, reason)
            else:
                try:
                    done = await self._resume(subscription, channel, cursor)
                except CursorLost as lost:
                    done, cursor, reason = False, None, lost.reason
                self._metrics.resumes.labels(reason or "resumed").inc()
            if done:
                return

    async def _show(self, subscription: Subscription, position: Cursor, reason: str) -> bool:
        snapshot = await self._snapshots.read((subscription.channel, subscription.key), None)
        if subscription.stale:
            return False
        subscription.show(Cursor(position.epoch, position.offset, snapshot.fence), snapshot.items, reason)
        return True

    async def _resume(self, subscription: Subscription, channel: Channel, cursor: Cursor) -> bool:
        history = await self._since(channel, cursor, subscription.key)
        if sum(len(event.json) for event in history) > MAX_HISTORY:
            raise CursorLost("trimmed")  # too much for one answer, also the next time: the items are less
        if subscription.stale:
            return False
        subscription.resume(cursor, history)
        return True

    async def _since(self, channel: Channel, cursor: Cursor, key: str | None) -> Sequence[Placed]:
        """Every event after the cursor that a subscription which listens already will not be delivered."""
        position = channel.place
        if (cursor.epoch, cursor.offset) == (position.epoch, position.offset):
            return ()
        history = await self._after(channel.name, cursor)
        if cursor.epoch != channel.place.epoch:
            # The log knows the cursor, but this node follows an epoch that has ended, unheard of as yet.
            await self._channels.repaired(channel)
            if cursor.epoch != channel.place.epoch:
                raise CursorLost("epoch")
        return history.since(cursor.offset, key)

    async def _after(self, name: str, cursor: Cursor) -> History:
        """As the broker's history, read for all who ask at once. Where it does not go back to the first of them, it may
        to the others, who ask again without that one.
        """
        while True:
            history = await self._histories.read((name, cursor.epoch), cursor.offset)
            if history.lost is None:
                if cursor.offset > history.newest:
                    raise CursorLost("future")
                return history
            if history.after == cursor.offset or history.lost.reason != "trimmed":
                raise CursorLost(history.lost.reason)

    async def _history(self, of: tuple[str, str], offsets: Sequence[int]) -> History:
        name, epoch = of
        after = min(offsets)
        try:
            return History(after, await self._broker.history(name, Cursor(epoch, after)))
        except CursorLost as lost:
            return History(after, lost=lost)

    async def _snapshot(self, of: tuple[str, str | None], _: Sequence[None]) -> Snapshot:
        name, key = of
        return await self._read(name, None if key is None else [key])
