"""The broker that joins nodes through one Redis (7 or later) or Valkey: a log for each channel, pub/sub, leases.

A publish is one script: the next offsets, the entries, the message to the nodes. What is published is the entry as
clients will see it, so that a node passes on what it got. A log belongs to one run of one server; when that changes,
its epoch does, too: one reset too many is cheap, one too few is a lie. (No Redis Cluster: a script uses several slots.)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from secrets import token_hex

import msgspec

from ..errors import BadCursor, BrokerDown, CursorLost
from ..protocol import Change, Cursor, Placed, opening, split_channel
from ..redis_pubsub import PubSub, answering, client, failing_as
from .base import Broken, Deliver, LeaseLost, Recovered
from .hold import holding
from .keys import LEASE, LOG, META, NODE
from .redis_lease import RedisLease

log = logging.getLogger("realtime.brokers.redis")

PORTION = 500  # changes in one script
PORTION_BYTES = 1 << 18  # and in one message, a fraction of what may wait for a session
CHANNELS = 100  # whose positions are read in one script

_CHANNEL, _PUBLISH, _HISTORY, _POSITIONS = (
    files(__package__).joinpath(f"{name}.lua").read_text() for name in ("channel", "publish", "history", "positions")
)


class RedisBroker:
    """One node's end. `history` in events, `history_ttl` in seconds, both for each channel."""

    def __init__(self, url: str, node: str, *, history: int = 1000, history_ttl: int = 3600) -> None:
        self._url, self._history, self._history_ttl = url, history, history_ttl
        self._meta_ttl = 24 * history_ttl  # longer than the log: without it nobody would know what is missing
        self._warned = False  # of what is no event
        self._node = f"{node.replace('/', '_')}.{token_hex(4)}"  # a node that starts again is another one

    async def open(self, deliver: Deliver, recovered: Recovered, broken: Broken) -> None:
        self._deliver = deliver
        self._redis = client(self._url)
        self._publish = self._redis.register_script(_CHANNEL + _PUBLISH)
        self._read = self._redis.register_script(_CHANNEL + _HISTORY)
        self._stand = self._redis.register_script(_CHANNEL + _POSITIONS)
        home = f"{NODE}{self._node}".encode()
        self._pubsub = PubSub(self._url, home, heard=self._heard, recovered=recovered, broken=broken)
        self._pubsub.open()

    async def close(self) -> None:
        await self._pubsub.close()
        await self._redis.aclose()

    async def publish(self, channel: str, changes: Sequence[Change]) -> None:
        store, _ = split_channel(channel)
        keys = [LOG + channel, META + channel, LEASE + store]
        settings: list[str | bytes | int] = [token_hex(6), self._meta_ttl, self._history, self._history_ttl, self._node]
        for portion in _portions(channel, changes):
            async with answering(BrokerDown):
                told = await self._publish(keys, [*settings, *portion])
            if told < 0:
                raise LeaseLost(f"the lease of {store} is not held here")

    async def subscribe(self, channel: str) -> None:
        with failing_as(BrokerDown):
            await self._pubsub.subscribe((LOG + channel).encode())

    async def unsubscribe(self, channel: str) -> None:
        await self._pubsub.unsubscribe((LOG + channel).encode())

    async def positions(self, channels: Sequence[str]) -> list[Cursor]:
        found: list[Cursor] = []
        for start in range(0, len(channels), CHANNELS):
            keys = [key for channel in channels[start : start + CHANNELS] for key in (LOG + channel, META + channel)]
            async with answering(BrokerDown):
                places = await self._stand(keys, [token_hex(6), self._meta_ttl])
            found += (Cursor(epoch.decode(), offset) for epoch, offset in zip(places[::2], places[1::2], strict=True))
        return found

    async def history(self, channel: str, after: Cursor) -> list[Placed]:
        async with answering(BrokerDown):
            epoch, offset, entries = await self._read(
                [LOG + channel, META + channel], [token_hex(6), self._meta_ttl, after.epoch, after.offset]
            )
        if after.epoch != epoch.decode():
            raise CursorLost("epoch")
        if after.offset > offset:
            raise CursorLost("future")
        if len(entries) < offset - after.offset:
            raise CursorLost("trimmed")
        return [Placed.decode(event) for _, (_, event) in entries]

    @asynccontextmanager
    async def lease(self, store: str) -> AsyncIterator[RedisLease]:
        lease = RedisLease(self._redis, self._node, store)
        await lease.acquire()
        try:
            async with holding(lease.loss(), f"lease {store}"):
                yield lease
        finally:
            with suppress(BrokerDown):  # then it ends by itself
                await lease.release()

    def _heard(self, name: bytes, payload: bytes) -> None:
        channel = name.decode().removeprefix(LOG)
        try:
            events = [Placed.decode(event) for event in payload.splitlines()]
        except (msgspec.MsgspecError, ValueError, RecursionError, BadCursor) as error:
            if not self._warned:  # once: whoever writes there may do so a thousand times a second
                self._warned = True
                log.warning("not an event, published in %s by somebody else; more of it is ignored: %s", channel, error)
        else:
            self._deliver(channel, events)


def _portions(channel: str, changes: Sequence[Change]) -> Iterator[list[str | bytes]]:
    """Versions and openings in turn, as many as one script should take."""
    portion: list[str | bytes] = []
    size = 0
    for change in changes:
        text = opening(channel, change)
        if portion and (size + len(text) > PORTION_BYTES or len(portion) >= 2 * PORTION):
            yield portion
            portion, size = [], 0
        portion += change.version, text
        size += len(text)
    if portion:
        yield portion
