"""A selection that is iterated over. It is subscribed to with the first step, and let go of with the iterator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from ..protocol import Mode, Subscribe, check_key, split_channel
from .held import Held
from .inbox import Inbox
from .messages import Message
from .selections import Selection

if TYPE_CHECKING:
    from .live import Live


class Watch(AsyncIterator[Message]):
    """Messages of one selection, in order: what `Live.watch` gives. For one task at a time."""

    def __init__(
        self, live: Live, channel: str, key: str | None, cursor: str | None, mode: Mode, max_rate: float | None
    ) -> None:
        """Raises ProtocolError for what can be no selection."""
        split_channel(channel)
        check_key(key)
        Subscribe(0, channel, key, cursor, mode, max_rate).check()
        self._live = live
        self._news = asyncio.Event()
        self._inbox = Inbox(channel, key, mode, cursor, self._news.set)
        self._selection = Selection(channel, key, mode, max_rate, self._inbox)
        self._held: Held | None = None

    @property
    def cursor(self) -> str | None:
        """Where to go on from after all that was taken: as `cursor` of another watch, another day, at another node."""
        return self._inbox.taken

    async def __anext__(self) -> Message:
        """Raises what ended it: Forbidden, Unauthorized, BadCursor, UnknownChannel, TooLarge, ProtocolError."""
        if self._held is None and not self._inbox.over:
            self._held = self._live._hold(self._selection)
        while (message := self._inbox.next()) is None:
            if self._inbox.error is not None:
                raise self._inbox.error
            if self._inbox.over:
                raise StopAsyncIteration
            if self._selection.paused and self._held is not None:
                self._held.resume()
            self._news.clear()
            await self._news.wait()
        return message

    async def aclose(self) -> None:
        """Let go of it, at once; a loop that is left does so by itself."""
        if self._held is not None:
            self._held.let_go()
        self._inbox.end(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
