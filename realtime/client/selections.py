"""What is subscribed to over one connection at a time, and what there is to say and to hear about it. Pure.

An event on the wire names no subscription, and one that two selections want comes once. So those that are together
here never overlap, and share a `max_rate` where they share a channel.

What is to be said is not queued but found: a selection that was not asked for on this connection is asked for, with the
cursor of its own. So a new connection needs nothing beside it, and nothing grows while there is none.
"""

from __future__ import annotations

from itertools import count
from random import uniform
from typing import Protocol

from msgspec import UNSET

from .. import protocol
from ..errors import Forbidden, TooMany, Unavailable
from ..protocol import Event, Failure, Fresh, Leave, Mode, ServerMessage, Subscribe, Subscribed, Unsubscribe
from .answers import named

FIRST, LONGEST = 0.2, 15.0  # seconds before another try: at most, at first; and ever
MOST = 100  # selections; the service allows 128 unless told otherwise

Shown = Subscribed | protocol.Reset | Event | Fresh


def jitter(tries: int) -> float:
    """Seconds to wait after so many tries in a row: anything up to a bound that doubles."""
    return uniform(0, min(FIRST * 2 ** min(tries, 16), LONGEST))  # noqa: S311


class Sink(Protocol):
    """Where the messages of a selection go. `full`: it takes no more for now. `cursor`: after all that it took."""

    @property
    def full(self) -> bool: ...

    @property
    def cursor(self) -> str | None: ...

    def take(self, message: Shown) -> None: ...

    def broken(self) -> None:
        """The connection is gone."""

    def end(self, error: Exception | None) -> None:
        """Nothing comes any more: because of this, or as it was wished."""


class Selection:
    """`id`: of the subscribe on this connection. `live`: that was answered. `paused`: its sink is full."""

    def __init__(self, channel: str, key: str | None, mode: Mode, max_rate: float | None, sink: Sink) -> None:
        self.channel, self.key, self.mode, self.max_rate, self.sink = channel, key, mode, max_rate, sink
        self.id: int | None = None
        self.live = self.paused = False
        self.due = 0.0  # not to be asked for before
        self.tries = 0  # in a row that were refused for the time being

    def bears(self, other: Selection) -> bool:
        """To be on one connection."""
        if self.channel != other.channel:
            return True
        overlap = None in (self.key, other.key) or self.key == other.key
        return not overlap and self.max_rate == other.max_rate


class Selections:
    def __init__(self) -> None:
        self._all: dict[tuple[str, str | None], Selection] = {}
        self._asked: dict[int | str | None, Selection] = {}
        self._gone: list[int] = []  # subscriptions to end
        self._ids = count(1)

    def __len__(self) -> int:
        return len(self._all)

    def fits(self, new: Selection) -> bool:
        return len(self._all) < MOST and all(new.bears(other) for other in self._all.values())

    def add(self, selection: Selection) -> None:
        self._all[selection.channel, selection.key] = selection

    def drop(self, selection: Selection) -> None:
        """It is wanted no more, if it was."""
        if self._all.get((selection.channel, selection.key)) is selection:
            del self._all[selection.channel, selection.key]
            self._put_down(selection)

    def end(self, error: Exception | None) -> None:
        """All of them."""
        for selection in list(self._all.values()):
            self.drop(selection)
            selection.sink.end(error)

    def lost(self) -> None:
        """The connection is gone, and with it all that was said on it."""
        self._asked.clear()
        self._gone.clear()
        for selection in self._all.values():
            selection.id, selection.live, selection.due = None, False, 0.0
            selection.sink.broken()

    @property
    def settled(self) -> bool:
        """All are live, but for those that wait for their sinks."""
        return all(each.live or each.paused for each in self._all.values())

    # to be said -----------------------------------------------------------------------------------------------------

    def request(self, now: float) -> Subscribe | Unsubscribe | None:
        """What is to be said next."""
        if self._gone:
            return Unsubscribe(self._gone.pop(0))
        selection = next((each for each in self._wanting() if each.due <= now), None)
        if selection is None:
            return None
        selection.id = next(self._ids)
        self._asked[selection.id] = selection
        cursor = selection.sink.cursor
        return Subscribe(selection.id, selection.channel, selection.key, cursor, selection.mode, selection.max_rate)

    def due(self) -> float | None:
        """When there is something to say, if nothing happens before."""
        return min((each.due for each in self._wanting()), default=None)

    def _wanting(self) -> list[Selection]:
        return [each for each in self._all.values() if each.id is None and not each.paused]

    # heard ----------------------------------------------------------------------------------------------------------

    def hear(self, message: ServerMessage, now: float) -> bool:
        """Whether a selection is in another state now: of most events, none is."""
        match message:
            case Event():
                found = self._live(message.channel, None) or self._live(message.channel, message.key)
                return found is not None and self._give(found, message)
            case Subscribed():
                self._answer(message)
            case protocol.Reset() | Fresh() | Leave():
                self._about(message)
            case Failure() if (refused := self._asked.get(message.id)) is not None:
                self._refused(refused, message, now)
        return True

    def _answer(self, message: Subscribed) -> None:
        if (selection := self._asked.get(message.id)) is None:
            return  # it was let go of meanwhile
        if not message.more:
            selection.live, selection.tries = True, 0
        self._give(selection, message)

    def _about(self, message: protocol.Reset | Fresh | Leave) -> None:
        selection = self._live(message.channel, None if message.key is UNSET else message.key)
        if selection is None:
            return
        if isinstance(message, Leave):
            self._finish(selection, Forbidden(f"you may not see {message.channel} any more"))
        else:
            self._give(selection, message)

    def _refused(self, selection: Selection, failure: Failure, now: float) -> None:
        error = named(failure.code, failure.message, failure.hint or None)
        if isinstance(error, (Unavailable, TooMany)):  # for the time being
            self._forget(selection)
            selection.due = now + jitter(selection.tries)
            selection.tries += 1
        else:
            self._finish(selection, error)

    def _live(self, channel: str, key: str | None) -> Selection | None:
        selection = self._all.get((channel, key))
        return selection if selection is not None and selection.live else None

    def _give(self, selection: Selection, message: Shown) -> bool:
        """Whether it is put down for that."""
        selection.sink.take(message)
        if selection.sink.full and selection.live:
            selection.paused = True
            self._put_down(selection)
        return selection.paused

    def _finish(self, selection: Selection, error: Exception) -> None:
        """The service has ended it."""
        self._forget(selection)
        self.drop(selection)
        selection.sink.end(error)

    def _put_down(self, selection: Selection) -> None:
        if selection.id is not None:
            self._gone.append(selection.id)
        self._forget(selection)

    def _forget(self, selection: Selection) -> None:
        self._asked.pop(selection.id, None)
        selection.id, selection.live = None, False
