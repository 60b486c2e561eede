"""The contract of a broker: what joins the nodes. Pub/sub, history and lease.

1. Per channel, offsets grow by one; history and delivery agree on them.
2. When `subscribe` returns, every later publish on any node reaches `deliver`.
3. A break may lose deliveries but never reorders or alters them; when whole again the broker calls `recovered`.
4. `history(channel, after)` is exact or raises `CursorLost`.
5. Publishing a version at or below the channel's last one is a no-op, so a feed may restart from anywhere earlier.
6. A lease has at most one holder; a holder that loses it is cancelled. Only the holder's node can publish: whatever an
   old one says late is refused (`LeaseLost`) and changes nothing.
7. A broker that does not answer within seconds raises `BrokerDown`. Nothing of its driver's errors gets out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..protocol import Change, Cursor, Placed

Deliver = Callable[[str, Sequence[Placed]], None]  # channel, events; no events: its epoch changed, look at the position
Recovered = Callable[[], None]  # deliveries may be missing since the break: compare every position
Broken = Callable[[], None]  # deliveries are not coming in at present


class Lease(Protocol):
    """The right to run one store's feed, and what only its holder may do."""

    mark: str | None  # where the store's changes go on, as the last holder kept it
    before: str  # who was seen to have it before, and what became of them; empty: nobody else was

    async def keep(self, mark: str) -> None:
        """Remember `mark`; call it after the changes up to it are published."""

    async def renew(self, collections: Sequence[str] | None, reason: str) -> None:
        """Open a new epoch in these channels of the store (None: in all), empty of history; tells the nodes."""


class Broker(Protocol):
    async def open(self, deliver: Deliver, recovered: Recovered, broken: Broken) -> None:
        """Start without waiting for the server: the calls below raise BrokerDown until it is up."""

    async def close(self) -> None: ...

    async def publish(self, channel: str, changes: Sequence[Change]) -> None:
        """Append what is new, in order, and deliver it; for the holder of the lease of the channel's store."""
        ...

    async def subscribe(self, channel: str) -> None: ...

    async def unsubscribe(self, channel: str) -> None: ...

    async def positions(self, channels: Sequence[str]) -> list[Cursor]:
        """The newest place of each; opens a channel's first epoch if it has none. Cheap, also for thousands."""
        ...

    async def history(self, channel: str, after: Cursor) -> list[Placed]:
        """Every event after the cursor, up to the newest. Raises CursorLost (epoch, trimmed, future)."""
        ...

    def lease(self, store: str) -> AbstractAsyncContextManager[Lease]:
        """Waits until this node is the holder; the body is cancelled, and LeaseLost raised, when it is no longer."""
        ...


class LeaseLost(Exception):
    """The lease is another's or nobody's, or the broker could not be asked whether we still have it."""
