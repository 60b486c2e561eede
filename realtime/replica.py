"""What a client knows: one selection's messages applied to a dict. The Python client's memory and the tests' oracle.

`cursor` is what to subscribe with after a break; it is kept only when all parts of a snapshot have come, since half a
snapshot is no place to go on from.
"""

from __future__ import annotations

from msgspec import UNSET, Raw

from .protocol import Event, Fresh, Leave, Reset, ServerMessage, Subscribed


class Replica:
    def __init__(self, channel: str, key: str | None = None) -> None:
        self.channel, self.key = channel, key
        self.items: dict[str, Raw] = {}
        self.cursor: str | None = None
        self._parts: dict[str, Raw] = {}

    def apply(self, message: ServerMessage) -> bool:
        """Take one message of the server; True where it changed the items. Others' messages change nothing."""
        match message:
            case Event():
                return message.channel == self.channel and self._event(message)
            case Subscribed() | Reset() if self._mine(message):
                return self._state(message)
            case Fresh() if self._mine(message):
                self.cursor = message.cursor
            case Leave() if self._mine(message):
                return self._leave()
        return False

    def broken(self) -> None:
        """The connection is gone: parts of a snapshot that was not completed will not be."""
        self._parts = {}

    def _leave(self) -> bool:
        """It may not be seen any more."""
        self.broken()
        known, self.items, self.cursor = self.items, {}, None
        return bool(known)

    def _mine(self, message: Subscribed | Reset | Fresh | Leave) -> bool:
        key = None if message.key is UNSET else message.key
        return (message.channel, key) == (self.channel, self.key)

    def _event(self, event: Event) -> bool:
        if self.key not in (None, event.key):
            return False
        self.cursor = event.cursor
        if event.op == "delete":
            return self.items.pop(event.key, None) is not None
        value = event.value if isinstance(event.value, Raw) else Raw(b"null")
        changed = bytes(self.items.get(event.key, b"")) != bytes(value)
        self.items[event.key] = value
        return changed

    def _state(self, message: Subscribed | Reset) -> bool:
        if message.items is not None:
            self._parts |= message.items
            if message.more:
                return False
            before, self.items, self._parts = self.items, self._parts, {}
            self.cursor = message.cursor
            return before.keys() != self.items.keys() or any(
                bytes(before[k]) != bytes(v) for k, v in self.items.items()
            )
        self.broken()
        self.cursor = message.cursor
        return False
