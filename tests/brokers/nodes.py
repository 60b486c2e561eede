"""What a test of a broker needs: nodes that write down what their broker tells them."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

from msgspec import Raw

from realtime.brokers.base import Broker
from realtime.protocol import Change, Cursor, Placed


class Node:
    """One broker, opened, and all that it has said."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard: list[tuple[str, Sequence[Placed]]] = []
        self.broken = self.recovered = 0

    async def open(self) -> None:
        await self.broker.open(self._deliver, self._recovered, self._broken)

    async def position(self, channel: str) -> Cursor:
        [position] = await self.broker.positions([channel])
        return position

    async def publish(self, channel: str, changes: Sequence[Change]) -> None:
        """As the holder of the lease, for as long as it takes."""
        async with self.broker.lease(channel.partition("/")[0]):
            await self.broker.publish(channel, changes)

    def events(self, channel: str) -> list[Placed]:
        return [event for name, events in self.heard if name == channel for event in events]

    def _deliver(self, channel: str, events: Sequence[Placed]) -> None:
        self.heard.append((channel, events))

    def _recovered(self) -> None:
        self.recovered += 1

    def _broken(self) -> None:
        self.broken += 1


def change(n: int, key: str = "k", collection: str = "c") -> Change:
    return Change(collection, key, "put", Raw(b"%d" % n), f"{n:08d}", 1700000000.0 + n)


def values(events: Sequence[Placed]) -> list[int]:
    return [int(bytes(event.event.value)) for event in events if isinstance(event.event.value, Raw)]


def offsets(events: Sequence[Placed]) -> list[int]:
    return [event.cursor.offset for event in events]


def new_store() -> str:
    """A name that no other test has, as tests share a server."""
    return f"s{token_hex(6)}"
