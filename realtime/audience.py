"""Those who listen to one selector of a channel: most of them as a crowd, which is handed a turn's events all at once.

A session with one subscription, which is live and to which nothing else has to be sent, needs no queue: it gets the
very bytes that all the others get. So such sessions stand together in a crowd; an event costs them nothing until the
turn of the loop is over, and then one call of `send` for each. Their cursor is the crowd's. Whoever has to be sent
anything else, or does not take all, steps out of it, with the events of the turn so far, and is handed each event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from .protocol import Codec, Cursor, Placed

MAX_TURN = 1 << 16  # bytes of events that wait for the end of a turn; beyond it they are sent at once

Send = Callable[[bytes], int]  # how much of it was taken; OSError: none


class Way(NamedTuple):
    """How a crowd reaches a connection: by its socket's own `send`, with nothing of ours around it.

    `due`: call `flush` when the turn is over. `rest`: keep what the socket did not take.
    """

    codec: Codec
    due: Callable[[Crowd[Any]], None]
    send: Send
    rest: Callable[[bytes], None]


class Listener(Protocol):
    def deliver(self, event: Placed) -> None:
        """Take an event of the selector."""

    def refused(self, rest: bytes) -> None:
        """Step out of the crowd: the connection did not take this of what was sent."""

    def alone(self) -> None:
        """Step out of the crowd, with its events."""


L = TypeVar("L", bound=Listener)


class Crowd(Generic[L]):
    """Listeners that get the same bytes, by the way to them."""

    __slots__ = ("_codec", "_due", "_members", "_size", "cursor", "events")

    def __init__(self, codec: Codec, due: Callable[[Crowd[Any]], None]) -> None:
        self.events: list[Placed] = []  # of this turn: all that are here now get all of them
        self.cursor: Cursor | None = None  # of the newest event
        self._codec: Codec = codec
        self._due = due
        self._members: dict[Send, L] = {}
        self._size = 0  # bytes of the events

    def __len__(self) -> int:
        return len(self._members)

    def add(self, send: Send, listener: L) -> None:
        """At the beginning of a turn."""
        self._members[send] = listener

    def remove(self, send: Send) -> None:
        del self._members[send]

    def deliver(self, event: Placed) -> None:
        if not self.events:
            self._due(self)
        self.events.append(event)
        self.cursor = event.cursor
        self._size += event.size
        if self._size > MAX_TURN:
            self.flush()

    def flush(self) -> None:
        """The turn is over."""
        if not self.events:
            return
        try:
            frames = b"".join([event.frame(self._codec) for event in self.events])
        except (ValueError, RecursionError):  # one cannot be encoded, which each session will find for itself
            for listener in list(self._members.values()):
                listener.alone()
            return
        self.events, self._size = [], 0
        for send, taken in self._send(frames):
            self._members[send].refused(frames[taken:])

    def _send(self, frames: bytes) -> list[tuple[Send, int]]:
        """To all; those that did not take it whole, and how much they took."""
        size, members, refusing = len(frames), iter(self._members), list[tuple[Send, int]]()
        while True:
            try:
                for send in members:
                    if (taken := send(frames)) != size:
                        refusing.append((send, taken))
                return refusing
            except OSError:  # full, or gone: the others are behind it
                refusing.append((send, 0))


class Audience(Generic[L]):
    __slots__ = ("_crowds", "_each")

    def __init__(self) -> None:
        self._each: dict[L, None] = {}  # those that are handed each event
        self._crowds: dict[Codec, Crowd[L]] = {}

    def __len__(self) -> int:
        return len(self._each) + sum(map(len, self._crowds.values()))

    def __iter__(self) -> Iterator[L]:
        yield from self._each
        for crowd in self._crowds.values():
            yield from crowd._members.values()

    def add(self, listener: L) -> None:
        self._each[listener] = None

    def remove(self, listener: L) -> None:
        """One that does not stand in a crowd."""
        del self._each[listener]

    def enter(self, listener: L, way: Way) -> Crowd[L] | None:
        """From now on in the crowd; None in the middle of a turn, of which it has had events already."""
        crowd = self._crowds.get(way.codec)
        if crowd is None:
            crowd = self._crowds[way.codec] = Crowd(way.codec, way.due)
        elif crowd.events:
            return None
        del self._each[listener]
        crowd.add(way.send, listener)
        return crowd

    def leave(self, listener: L, way: Way) -> None:
        """Handed each event again."""
        crowd = self._crowds[way.codec]
        crowd.remove(way.send)
        if not crowd:
            del self._crowds[way.codec]
        self._each[listener] = None

    def deliver(self, event: Placed) -> int:
        """To how many."""
        for listener in self._each:
            listener.deliver(event)
        for crowd in list(self._crowds.values()):
            crowd.deliver(event)
        return len(self)
