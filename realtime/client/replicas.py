"""A selection as a mapping that stays current by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from .. import protocol
from ..errors import RealtimeError
from ..protocol import Event, Fresh, Subscribed, check_key, split_channel
from ..replica import Replica
from .messages import plain
from .selections import Selection

if TYPE_CHECKING:
    from .live import Live


class _Mirror:
    """The sink: what is known, and the flags that it is, and that it has changed."""

    full = False

    def __init__(self, channel: str, key: str | None) -> None:
        self.replica = Replica(channel, key)
        self.ready, self.changed = asyncio.Event(), asyncio.Event()
        self.over = False
        self.error: Exception | None = None

    @property
    def cursor(self) -> str | None:
        """After all that has come."""
        return self.replica.cursor

    def take(self, message: Subscribed | protocol.Reset | Event | Fresh) -> None:
        changed = self.replica.apply(message)
        if not self.ready.is_set() and self.replica.cursor is not None:
            self.ready.set()
        elif changed:
            self.changed.set()

    def broken(self) -> None:
        self.replica.broken()

    def end(self, error: Exception | None) -> None:
        if error is not None:  # what can no longer be seen is not to be taken for what is
            self.replica = Replica(self.replica.channel, self.replica.key)
        self.over, self.error = True, error
        self.ready.set()
        self.changed.set()


class LiveReplica(Mapping[str, Any]):
    """What is known of a selection, by key; empty until it is `ready`. Values are decoded anew with each look.

    `await` it, or enter it, to have it ready. It stays current until it is closed or forgotten.
    """

    def __init__(self, live: Live, channel: str, key: str | None) -> None:
        split_channel(channel)
        check_key(key)
        self._mirror = _Mirror(channel, key)
        self._held = live._hold(Selection(channel, key, "latest", None, self._mirror))

    @property
    def cursor(self) -> str | None:
        """Where to watch on from."""
        return self._mirror.cursor

    async def ready(self) -> Self:
        """Once there are items. Raises what ended it."""
        await self._mirror.ready.wait()
        self._check()
        return self

    async def changed(self) -> None:
        """Once it has changed since this was awaited last, or since it was ready. Raises what ended it.

        Several changes may have come together. For one task at a time.
        """
        await self.ready()
        await self._mirror.changed.wait()
        self._check()
        self._mirror.changed.clear()

    async def aclose(self) -> None:
        """Let it go; what is known stays, and grows old."""
        self._held.let_go()
        self._mirror.end(None)

    def _check(self) -> None:
        if self._mirror.over:
            raise self._mirror.error or RealtimeError(f"the replica of {self._mirror.replica.channel} is closed")

    def __await__(self) -> Generator[Any, None, Self]:
        return self.ready().__await__()

    async def __aenter__(self) -> Self:
        try:
            return await self.ready()
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __getitem__(self, key: str) -> Any:
        return plain(self._mirror.replica.items[key])

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._mirror.replica.items))

    def __len__(self) -> int:
        return len(self._mirror.replica.items)
