"""What a client subscribed to: one selector of a channel, and where the client is in it.

It is *joining* while its snapshot or history is read (live events wait in its line), then *live*; as long as a fence
or a cursor ahead of this node asks for it, it looks at each event, after that events pass without a look. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import UNSET, Raw

from .audience import Audience, Crowd, Way
from .protocol import Cursor, Fresh, Leave, Mode, Placed, Reset, Subscribe, Subscribed, beyond
from .session import Session

MAX_LINE = 1 << 22  # bytes of events that may wait for one joining subscription; beyond it the join starts again
PART_ITEMS, PART_BYTES = 500, 1 << 18  # a larger snapshot goes out in several messages

Contains = Callable[[str, str], bool]


class Subscription:
    """(session, channel, selector): one key, or all. `cursor` is what the client has once it took all that waits."""

    __slots__ = (
        "_contains",
        "_crowd",
        "_cursor",
        "_lined",
        "audience",
        "channel",
        "id",
        "key",
        "line",
        "mode",
        "pace",
        "plain",
        "session",
        "stale",
        "view",
    )

    def __init__(self, session: Session, request: Subscribe, contains: Contains) -> None:
        """Raises what `Session.add` raises, and Unauthorized or Forbidden."""
        self.view = session.rights.view(request.channel, request.key)
        self.session, self.id, self.channel, self.key = session, request.id, request.channel, request.key
        self.mode: Mode = request.mode
        self.line: list[Placed] | None = []  # None once live
        self.stale = False  # the join under way rests on what is no longer so: start it again
        self.plain = False  # live, and no event needs a look any more
        self.audience: Audience[Subscription] | None = None  # what it belongs to while the hub has it
        self._crowd: Crowd[Subscription] | None = None  # of the audience, where it stands in it
        self._contains = contains
        self._cursor = Cursor("", 0)
        self._lined = 0  # bytes in the line
        self.pace = session.add(self, request.max_rate)

    @property
    def held(self) -> bool:
        """Whether its client still has it: it may have left while something was awaited."""
        return self.session.subscriptions.get(self.id) is self

    @property
    def cursor(self) -> Cursor:
        own, crowd = self._cursor, self._crowd
        if crowd is None or crowd.cursor is None or crowd.cursor.epoch != own.epoch:
            return own
        return own if own.offset > crowd.cursor.offset else crowd.cursor

    def begin(self) -> None:
        """Start joining (again): from now on events wait in the line."""
        self.session.step_out()
        self.line, self.stale, self.plain = [], False, False
        self._lined = 0

    def enter(self, way: Way) -> bool:
        """The crowd, if it is to be had."""
        self._crowd = self.audience.enter(self, way) if self.audience is not None else None
        return self._crowd is not None

    def leave(self) -> None:
        """The crowd, with what it was handed in this turn."""
        crowd, self._cursor, self._crowd = self._crowd, self.cursor, None
        if crowd is not None and self.audience is not None and self.session.way is not None:
            self.audience.leave(self, self.session.way)
            for event in crowd.events:
                self.session.pass_on(event, event, self.mode)

    def refused(self, rest: bytes) -> None:
        way = self.session.way
        self.session.stall()
        if way is not None:
            way.rest(rest)

    def alone(self) -> None:
        self.session.step_out()

    def deliver(self, event: Placed) -> None:
        """Take an event of the channel; they come in order, each once, all of one epoch."""
        if self.plain:
            self._cursor = event.cursor
            self.session.pass_on(event, event, self.mode)
        elif self.line is None:
            self._look(event)
        elif self._lined < MAX_LINE:
            self._lined += event.size
            self.line.append(event)
        else:
            self.stale = True

    def _look(self, event: Placed, *, answer: bool = False) -> None:
        place, fence = event.cursor, self._cursor.fence
        if place.offset <= self._cursor.offset:
            return  # in the history that it resumed with, or before its snapshot
        if fence and beyond(fence, event.event.version):
            fence = ""
        self.plain = not fence and self.line is None and self.pace is None
        shown = not (fence and self._contains(fence, event.event.version))
        self._cursor = Cursor(place.epoch, place.offset, fence)
        if shown:
            own = event.fenced(fence) if fence else event
            if self.pace is not None and not answer:
                self.session.spare(self.pace.take(event, own))
            else:
                self.session.pass_on(event, own, self.mode, answer=answer)

    def show(self, cursor: Cursor, items: Mapping[str, Raw], reason: str = "") -> None:
        """Answer the subscribe with a snapshot, then go live with what waits in the line."""
        if not self.held:  # its rights were taken away meanwhile
            return
        for part, more in _parts(self._seen(items)):
            self.session.answer(Subscribed(self.id, self.channel, str(cursor), part, self._selector(), more, reason))
        self._go_live(cursor, ())

    def resume(self, cursor: Cursor, history: Iterable[Placed]) -> None:
        """Answer the subscribe with what it wants of what came after its cursor, then go live."""
        if not self.held:
            return
        self.session.answer(Subscribed(self.id, self.channel, str(cursor), None, self._selector()))
        view = self.view
        seen = history if view is None else filter(None, map(view.event, history))
        self._go_live(cursor, seen)

    def reset(self, cursor: Cursor, items: Mapping[str, Raw], reason: str) -> None:
        """History broke while live: replace the state, then go live again."""
        for part, more in _parts(self._seen(items)):
            self.session.answer(Reset(self.channel, str(cursor), part, reason, self._selector(), more))
        self._go_live(cursor, ())

    def follow(self, cursor: Cursor) -> None:
        """Go live without telling the client anything: from here on, events."""
        self._go_live(cursor, ())

    def refresh(self, position: Cursor, version: str) -> Cursor:
        """The cursor now that all events up to the node's `position` passed by, whether they were wanted or not."""
        holding = self.pace is not None and self.pace.holding  # which the client is not told as yet
        if self.line is None and position.epoch == self._cursor.epoch and not holding:
            fence = "" if beyond(self._cursor.fence, version) else self._cursor.fence
            self._cursor = Cursor(position.epoch, max(position.offset, self.cursor.offset), fence)
        return self.cursor

    def gone(self) -> Leave:
        return Leave(self.channel, self._selector())

    def fresh(self) -> Fresh:
        return Fresh(self.channel, str(self.cursor), self._selector())

    def _go_live(self, cursor: Cursor, history: Iterable[Placed]) -> None:
        line, self.line, self._cursor = self.line or [], None, cursor
        for event in history:
            self._look(event, answer=True)
        self.plain = False  # history may be ahead of this node, which then delivers some of it again
        for event in line:
            if event.cursor.epoch == cursor.epoch:
                self._look(event, answer=True)

    def _seen(self, items: Mapping[str, Raw]) -> Mapping[str, Raw]:
        return items if self.view is None else self.view.items(items)

    def _selector(self) -> str | msgspec.UnsetType:
        return UNSET if self.key is None else self.key


def _parts(items: Mapping[str, Raw]) -> Iterable[tuple[dict[str, Raw], bool]]:
    """A snapshot in messages of bounded size; all but the last say that more follows. An empty one is one message."""
    part: dict[str, Raw] = {}
    size = 0
    for key, value in items.items():
        if len(part) >= PART_ITEMS or size > PART_BYTES:
            yield part, True
            part, size = {}, 0
        part[key] = value
        size += len(bytes(value))
    yield part, False
