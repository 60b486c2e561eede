"""Answers to a subscribe: a snapshot, or what came after a cursor; then live.

The subscription listens already, so that what happens meanwhile waits in its line. The position is known before
anything is read, so that what is read may be ahead of it but never behind.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
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
MAX_KEPT = 1 << 22  # bytes of events in the histories that are kept for those who come next


class History:
    """What came after an offset, or why that cannot be known; for all who ask at once. `size`: in bytes of events."""

    def __init__(self, after: int, events: Sequence[Placed] = (), lost: CursorLost | None = None) -> None:
        self.after, self.events, self.lost = after, events, lost
        self.size = sum(event.size for event in events)
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


class Kept:
    """The histories that were read last, of at most `MAX_KEPT` bytes. One is as good as a new one until the channel has
    passed it: what came after it has been delivered to whoever listens already. So a storm reads it once.
    """

    def __init__(self) -> None:
        self._histories: OrderedDict[tuple[str, str], History] = OrderedDict()  # by channel and epoch, oldest first
        self._size = 0

    def get(self, channel: str, cursor: Cursor, position: Cursor) -> History | None:
        """One that has all from the cursor to the position, at least."""
        history = self._histories.get((channel, position.epoch))
        if history is None:
            return None
        if history.newest < position.offset:
            self._drop(channel, position.epoch)
            return None
        within = cursor.epoch == position.epoch and history.after <= cursor.offset <= history.newest
        return history if within else None

    def put(self, channel: str, epoch: str, history: History) -> None:
        self._drop(channel, epoch)
        self._histories[channel, epoch] = history
        self._size += history.size
        while self._size > MAX_KEPT:
            self._drop(*next(iter(self._histories)))

    def _drop(self, channel: str, epoch: str) -> None:
        if (history := self._histories.pop((channel, epoch), None)) is not None:
            self._size -= history.size


class Joins:
    """`read` reads a snapshot. What many ask for at once is read once."""

    def __init__(self, broker: Broker, channels: Channels, metrics: Metrics, read: Read) -> None:
        self._broker, self._channels, self._metrics, self._read = broker, channels, metrics, read
        self._snapshots, self._histories, self._kept = Shared(self._snapshot), Shared(self._history), Kept()

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
        key = subscription.key
        snapshot = await self._snapshots.read((subscription.channel, key is None), key)
        if subscription.stale:
            return False
        cursor = Cursor(position.epoch, position.offset, snapshot.fence)
        subscription.show(cursor, snapshot.of(key), reason)
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
        history = self._kept.get(channel.name, cursor, position) or await self._after(channel.name, cursor)
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
            history = History(after, await self._broker.history(name, Cursor(epoch, after)))
        except CursorLost as lost:
            return History(after, lost=lost)
        if history.events:
            self._kept.put(name, epoch, history)
        return history

    async def _snapshot(self, of: tuple[str, bool], keys: Sequence[str | None]) -> Snapshot:
        """Of all keys, or of those that were asked for."""
        name, every = of
        return await self._read(name, None if every else sorted({key for key in keys if key is not None}))
