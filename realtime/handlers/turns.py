"""Turns of the loop: whoever was handed something in one is flushed, once, when it is over.

So events that reach this node together go out together, whatever number of them there are, and no task and no timer
belongs to a connection.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..protocol import Codec, Placed


class Joined:
    """Events' frames as one piece of bytes: those that were handed the same events in a turn share it."""

    def __init__(self, codec: Codec) -> None:
        self._codec: Codec = codec
        self._events: list[Placed] = []
        self._bytes = b""

    def of(self, events: list[Placed]) -> bytes:
        if events != self._events:
            self._bytes = b"".join([event.frame(self._codec) for event in events])
            self._events = events
        return self._bytes

    def forget(self) -> None:
        self._events, self._bytes = [], b""


class Due(Protocol):
    codec: Codec

    def flush(self, joined: Joined) -> None:
        """The turn is over. Raises nothing."""


class Turns:
    def __init__(self) -> None:
        self._due: list[Due] = []
        self._joined: dict[Codec, Joined] = {"json": Joined("json"), "msgpack": Joined("msgpack")}

    def add(self, due: Due) -> None:
        """To be flushed; once in each turn."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._over)
        self._due.append(due)

    def _over(self) -> None:
        due, self._due = self._due, []
        joined = self._joined
        for each in due:
            each.flush(joined[each.codec])
        for one in joined.values():
            one.forget()
