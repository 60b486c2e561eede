"""The cursor of a stream that has several selections."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET

from .protocol import Cursor, Fresh, Outgoing, Placed, Reset, Subscribe, Subscribed, beyond


class Places:
    """The cursor of a stream's selections as one: what a client that was sent all messages so far has to hand back."""

    def __init__(self, selections: Iterable[Subscribe]) -> None:
        self._of: dict[tuple[str, str | None], Cursor | None] = {(each.channel, each.key): None for each in selections}

    def sent(self, message: Outgoing) -> None:
        """Move on by a message that goes out now: by an event only those that want it, and that know their place."""
        match message:
            case Placed():
                for key in (None, message.event.key):
                    self._pass(message, (message.event.channel, key))
            case Subscribed() | Reset() | Fresh() if not getattr(message, "more", False):
                selector = None if message.key is UNSET else str(message.key)
                self._of[message.channel, selector] = Cursor.parse(message.cursor)

    def _pass(self, event: Placed, selection: tuple[str, str | None]) -> None:
        before, after = self._of.get(selection), event.cursor
        if before is not None and before.epoch == after.epoch and before.offset < after.offset:
            fence = "" if beyond(before.fence, event.event.version) else before.fence
            self._of[selection] = Cursor(after.epoch, after.offset, fence)

    @property
    def single(self) -> bool:
        return len(self._of) == 1

    def __str__(self) -> str:
        """Empty while a selection is not answered: there is no place to come back to."""
        cursors = list(self._of.values())
        return "" if None in cursors else "~".join(map(str, cursors))
