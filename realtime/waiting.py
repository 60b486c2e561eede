"""What waits for one client, in order, counted in bytes; conflated: without the events that newer ones of a key follow.

Conflating begins when its session says so, and ends when all was taken: the client has caught up.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .protocol import Outgoing, Placed


class Entry(NamedTuple):
    """`droppable`: a newer event of its key may take its place."""

    message: Outgoing
    size: int  # bytes, about
    answer: bool  # asked for by a subscribe, not sent on the store's initiative
    droppable: bool


class Waiting:
    __slots__ = ("_entries", "_serial", "answers", "conflated", "conflating", "events")

    def __init__(self) -> None:
        self.events = self.answers = 0  # bytes
        self.conflating = False
        self.conflated = 0  # events that newer ones took the place of
        self._entries: dict[object, Entry] = {}  # in order; conflated: droppable events by (channel, key)
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        name: object = None
        if self.conflating and entry.droppable and isinstance(entry.message, Placed):
            name = entry.message.event.channel, entry.message.event.key
            if (older := self._entries.pop(name, None)) is not None:
                self._count(older, -1)
                self.conflated += 1
        if name is None:
            self._serial += 1
            name = self._serial
        self._entries[name] = entry
        self._count(entry, 1)

    def keep_last(self) -> None:
        """What was put last may not be dropped after all."""
        if self._entries:
            _, entry = self._entries.popitem()
            self._count(entry, -1)
            self.put(entry._replace(droppable=False))

    def conflate(self) -> None:
        """From now on keep the newest event per key, in order."""
        if not self.conflating:
            everything = list(self._entries.values())
            self.clear()
            self.conflating = True
            for entry in everything:
                self.put(entry)

    def take(self, most: int) -> list[Outgoing]:
        """The first ones, of about `most` bytes."""
        if self.events + self.answers <= most:
            entries = self._entries
            self.clear()
            return [entry.message for entry in entries.values()]
        names, size = [], 0
        for name, entry in self._entries.items():
            names.append(name)
            size += entry.size
            if size >= most:
                break
        taken = [self._entries.pop(name) for name in names]
        for entry in taken:
            self._count(entry, -1)
        if not self._entries:
            self.clear()
        return [entry.message for entry in taken]

    def clear(self) -> None:
        self._entries = {}  # a dict that was emptied would keep its room
        self.events = self.answers = 0
        self.conflating = False

    def _count(self, entry: Entry, sign: Literal[1, -1]) -> None:
        if entry.answer:
            self.answers += sign * entry.size
        else:
            self.events += sign * entry.size
