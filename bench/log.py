"""A writer that writes straight into the log, as the holder of a store's feed does, from a process that is no node.

So what is measured begins at the log: what finding the store's changes costs is measured by `capture`. The store is
Redis: the lease of its feed is ours before any node can take it, and the nodes under measurement only listen.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec import Raw
from msgspec.structs import replace

from realtime.brokers.redis import RedisBroker
from realtime.embedded import Embedded
from realtime.protocol import Change, Cursor, closing, opening, split_channel

SIZE = 148  # bytes of each event: what one has with a value of a few letters


class Log:
    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker
        self._version = 0  # written so that it sorts after all of the store's own, and so after every fence
        self._places: dict[str, Cursor] = {}  # of each channel's last event

    def place(self, collection: str) -> Cursor:
        """Of the last event."""
        return self._places[f"redis/{collection}"]

    async def publish(self, collection: str, keys: Sequence[str], size: int = SIZE) -> None:
        """An event of each key, of so many bytes, all at once: they reach a node in one piece."""
        channel = f"redis/{collection}"
        if channel not in self._places:
            [self._places[channel]] = await self._broker.positions([channel])
        changes = [self._change(channel, key, size) for key in keys]
        await self._broker.publish(channel, changes)

    def _change(self, channel: str, key: str, size: int) -> Change:
        """The next one, padded to its size, whatever the offset's digits take."""
        before = self._places[channel]
        place = self._places[channel] = Cursor(before.epoch, before.offset + 1)
        self._version += 1
        now = int(time.time()) + 0.5  # always as many digits
        bare = Change(split_channel(channel)[1], key, "put", Raw(b'""'), f"z{self._version:09}", now)
        pad = size - len(opening(channel, bare)) - len(closing(place.epoch, place.offset))
        return replace(bare, value=Raw(b'"%s"' % (b"x" * pad)))


@asynccontextmanager
async def opened(own: Embedded) -> AsyncIterator[Log]:
    """To be entered before any node is started."""
    broker = RedisBroker(own.urls["redis"], "bench-writer")
    await broker.open(lambda *_: None, lambda: None, lambda: None)
    try:
        async with broker.lease("redis"):
            yield Log(broker)
    finally:
        await broker.close()
