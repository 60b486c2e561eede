"""What waits for the one who iterates over a watch, bounded; pure.

Up to `SLOW` messages wait as they came. Beyond, a watch of the newest values (`latest`) keeps the newest event of each
key. At `MOST` messages or `MOST_BYTES`, conflated or not, the inbox is full: its selection is put down, and taken up
again from `cursor` once all was taken. So what did not fit comes as history, or as a reset; nothing is lost silently.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any

from msgspec import Raw, Struct

from .. import protocol
from ..protocol import Fresh, Mode, Subscribed
from .messages import Event, Message, Reset, Snapshot, plain

SLOW = 1000  # messages
MOST, MOST_BYTES = 10_000, 1 << 24
AROUND = 200  # bytes of a message beside its value


class _Whole(Struct):
    """All items, in place of what was known; `reason` None: they are the first."""

    cursor: str
    items: dict[str, Raw]
    reason: str | None
    size: int


_Entry = protocol.Event | _Whole


class Inbox:
    """`cursor`: after all that has come. `taken`: after what was taken, where to go on from if the rest is lost."""

    def __init__(self, channel: str, key: str | None, mode: Mode, cursor: str | None, wake: Callable[[], None]) -> None:
        self.cursor = self.taken = cursor
        self.over = False  # nothing comes any more
        self.error: Exception | None = None  # why
        self._channel, self._key, self._mode, self._wake = channel, key, mode, wake
        self._waiting: OrderedDict[object, _Entry] = OrderedDict()  # by key once it is slow, else by number
        self._numbers = count()
        self._size = 0
        self._slow = False
        self._parts: dict[str, Raw] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MOST or self._size > MOST_BYTES

    def take(self, message: Subscribed | protocol.Reset | protocol.Event | Fresh) -> None:
        match message:
            case protocol.Event():
                self.cursor = message.cursor
                self._put(message)
            case Fresh():
                self.cursor = message.cursor
                if not self._waiting:
                    self.taken = message.cursor
            case _:
                self._state(message)

    def broken(self) -> None:
        """The connection is gone: parts of a snapshot that was not completed will not be."""
        self._parts = {}

    def end(self, error: Exception | None) -> None:
        self.over, self.error = True, error
        self._wake()

    def next(self) -> Message | None:
        """The first of what waits."""
        if not self._waiting:
            return None
        _, entry = self._waiting.popitem(last=False)
        self._size -= _size(entry)
        self.taken = entry.cursor
        if not self._waiting:
            self._slow = False
            self.taken = self.cursor
        return self._message(entry)

    def _state(self, message: Subscribed | protocol.Reset) -> None:
        if message.items is None:
            self.broken()
            self.cursor = message.cursor
            return
        self._parts |= message.items
        if message.more:
            return
        items, self._parts = self._parts, {}
        again = isinstance(message, protocol.Reset) or self.cursor is not None
        reason = (message.reason or "unknown") if again else None
        if self._mode == "latest":  # of which these items are newer than all that waits
            self._waiting.clear()
            self._size = 0
        self.cursor = message.cursor
        size = sum(AROUND + len(bytes(value)) for value in items.values())
        self._put(_Whole(message.cursor, items, reason, size))

    def _put(self, entry: _Entry) -> None:
        name: object = next(self._numbers)
        if self._slow and isinstance(entry, protocol.Event):
            name = entry.key
            if (old := self._waiting.pop(name, None)) is not None:
                self._size -= _size(old)
        self._waiting[name] = entry
        self._size += _size(entry)
        if self._mode == "latest" and not self._slow and len(self._waiting) > SLOW:
            self._conflate()
        self._wake()

    def _conflate(self) -> None:
        entries, self._waiting, self._size, self._slow = list(self._waiting.values()), OrderedDict(), 0, True
        for entry in entries:
            self._put(entry)

    def _message(self, entry: _Entry) -> Message:
        if isinstance(entry, protocol.Event):
            return event_of(entry)
        items = {key: plain(value) for key, value in entry.items.items()}
        if entry.reason is None:
            return Snapshot(self._channel, self._key, items, entry.cursor)
        return Reset(self._channel, self._key, items, entry.cursor, entry.reason)


def event_of(event: protocol.Event) -> Event:
    value: Any = plain(event.value) if isinstance(event.value, Raw) else None
    return Event(event.channel, event.key, event.op, value, event.version, event.time, event.cursor)


def _size(entry: _Entry) -> int:
    if isinstance(entry, _Whole):
        return entry.size
    return AROUND + (len(bytes(entry.value)) if isinstance(entry.value, Raw) else 0)
