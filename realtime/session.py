"""The server's side of one client's conversation: what it subscribes to, and what waits to be sent to it.

Pure: no clock, no sockets. A transport gives `wake`, is woken when something waits, and takes it. A subscription is
*joining* while its snapshot or history is read (live events wait in its line), then *live*; as long as a fence or a
cursor ahead of this node asks for it, it looks at each event, after that events pass without a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from .errors import ProtocolError, TooMany
from .protocol import Cursor, Fresh, Message, Mode, Outgoing, Placed, Reset, Subscribe, Subscribed, beyond, encode

MAX_PENDING = 1 << 20  # bytes of events that may wait for a session; beyond it `latest` conflates, `all` comes back
MAX_ANSWERS = 1 << 24  # bytes of answers that may wait for a session; beyond it has to come back
MAX_LINE = 1 << 22  # bytes of events that may wait for one joining subscription; beyond it the join starts again
MAX_SUBSCRIPTIONS = 128  # per session
PART_ITEMS, PART_BYTES = 500, 1 << 18  # a larger snapshot goes out in several messages

Contains = Callable[[str, str], bool]


class Subscription:
    """(session, channel, selector): one key, or all. `cursor` is what the client has once it took all that waits."""

    __slots__ = ("_contains", "_lined", "channel", "cursor", "id", "key", "line", "mode", "plain", "session", "stale")

    def __init__(self, session: Session, request: Subscribe, contains: Contains) -> None:
        self.session, self.id, self.channel, self.key = session, request.id, request.channel, request.key
        self.mode: Mode = request.mode
        self.cursor = Cursor("", 0)
        self.line: list[Placed] | None = []  # None once live
        self.stale = False  # the join under way rests on what is no longer so: start it again
        self.plain = False  # live, and no event needs a look any more
        self._contains = contains
        self._lined = 0  # bytes in the line

    @property
    def held(self) -> bool:
        """Whether its client still has it: it may have left while something was awaited."""
        return self.session.subscriptions.get(self.id) is self

    def wants(self, event: Placed) -> bool:
        return self.key is None or self.key == event.event.key

    def begin(self) -> None:
        """Start joining (again): from now on events wait in the line."""
        self.line, self.stale, self.plain = [], False, False
        self._lined = 0

    def deliver(self, event: Placed) -> None:
        """Take an event of the channel; they come in order, each once, all of one epoch."""
        if self.plain:
            self.cursor = event.cursor
            self.session.pass_on(event, self.mode)
        elif self.line is None:
            self._look(event)
        elif self._lined < MAX_LINE:
            self._lined += len(event.json)
            self.line.append(event)
        else:
            self.stale = True

    def _look(self, event: Placed, *, answer: bool = False) -> None:
        place, fence = event.cursor, self.cursor.fence
        if place.offset <= self.cursor.offset:
            return  # in the history that it resumed with, or before its snapshot
        if fence and beyond(fence, event.event.version):
            fence = ""
        self.plain = not fence and self.line is None
        shown = not (fence and self._contains(fence, event.event.version))
        self.cursor = Cursor(place.epoch, place.offset, fence)
        if shown:
            self.session.pass_on(event, self.mode, fence, answer=answer)

    def show(self, cursor: Cursor, items: Mapping[str, Raw], reason: str = "") -> None:
        """Answer the subscribe with a snapshot, then go live with what waits in the line."""
        for part, more in _parts(items):
            self.session.answer(Subscribed(self.id, self.channel, str(cursor), part, self._selector(), more, reason))
        self._go_live(cursor, ())

    def resume(self, cursor: Cursor, history: Iterable[Placed]) -> None:
        """Answer the subscribe with what it wants of what came after its cursor, then go live."""
        self.session.answer(Subscribed(self.id, self.channel, str(cursor), None, self._selector()))
        self._go_live(cursor, history)

    def reset(self, cursor: Cursor, items: Mapping[str, Raw], reason: str) -> None:
        """History broke while live: replace the state, then go live again."""
        for part, more in _parts(items):
            self.session.answer(Reset(self.channel, str(cursor), part, reason, self._selector(), more))
        self._go_live(cursor, ())

    def follow(self, cursor: Cursor) -> None:
        """Go live without telling the client anything: from here on, events."""
        self._go_live(cursor, ())

    def refresh(self, position: Cursor, version: str) -> Cursor:
        """The cursor now that all events up to the node's `position` passed by, whether they were wanted or not."""
        if self.line is None and position.epoch == self.cursor.epoch:
            fence = "" if beyond(self.cursor.fence, version) else self.cursor.fence
            self.cursor = Cursor(position.epoch, max(position.offset, self.cursor.offset), fence)
        return self.cursor

    def fresh(self) -> Fresh:
        return Fresh(self.channel, str(self.cursor), self._selector())

    def _go_live(self, cursor: Cursor, history: Iterable[Placed]) -> None:
        line, self.line, self.cursor = self.line or [], None, cursor
        for event in history:
            self._look(event, answer=True)
        self.plain = False  # history may be ahead of this node, which then delivers some of it again
        for event in line:
            if event.cursor.epoch == cursor.epoch:
                self._look(event, answer=True)

    def _selector(self) -> str | msgspec.UnsetType:
        return UNSET if self.key is None else self.key


class Waiting(NamedTuple):
    """A message in a session's queue. `droppable`: a newer event of its key may take its place."""

    message: Outgoing
    size: int  # bytes, about
    answer: bool  # asked for by a subscribe, not sent on the store's initiative
    droppable: bool


class Session:
    """One client. `wake` is called when something waits; the transport then calls `take`.

    What comes by itself is bounded by `limit`: a client that does not keep up is given the newest event of each key, or
    has to come back. Answers have a bound of their own, since all of one is queued before the transport has its turn.
    """

    def __init__(self, wake: Callable[[], None], *, limit: int = MAX_PENDING) -> None:
        self.subscriptions: dict[int | str, Subscription] = {}
        self.overflown = False  # too slow even when conflated: the transport closes with TooSlow
        self.conflated = 0  # events that newer ones took the place of
        self._wake, self._limit = wake, limit
        self._pending: dict[object, Waiting] = {}  # in order; conflated: droppable events by (channel, key)
        self._events = self._answers = 0  # bytes
        self._conflating = False
        self._serial = count()
        self._last: Placed | None = None

    def add(self, request: Subscribe, contains: Contains) -> Subscription:
        """Raises ProtocolError where the id is in use, TooMany beyond the limit."""
        if request.id in self.subscriptions:
            raise ProtocolError(
                f"subscription id {request.id!r} is in use", hint="choose another, or unsubscribe it first"
            )
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise TooMany(f"more than {MAX_SUBSCRIPTIONS} subscriptions on one connection")
        subscription = self.subscriptions[request.id] = Subscription(self, request, contains)
        return subscription

    def pass_on(self, event: Placed, mode: Mode, fence: str = "", *, answer: bool = False) -> None:
        """Queue an event, once even if several selections want it; within a fence, as a frame of its own."""
        droppable = mode == "latest" and not answer
        if event is self._last:
            if not droppable:
                self._keep_last()
            return
        own = event.fenced(fence) if fence else event
        self._queue(Waiting(own, len(own.json), answer, droppable))
        self._last = event

    def send(self, message: Message) -> None:
        """Queue a message that comes by itself."""
        self._queue(Waiting(message, len(encode(message, "json")), answer=False, droppable=False))

    def answer(self, message: Subscribed | Reset) -> None:
        """Queue (a part of) a state."""
        self._queue(Waiting(message, _size(message.items or {}), answer=True, droppable=False))

    def take(self) -> list[Outgoing]:
        """All that waits, in order; it is the transport's now."""
        messages = [waiting.message for waiting in self._pending.values()]
        self._pending.clear()
        self._events = self._answers = 0
        self._conflating = False
        return messages

    def _queue(self, waiting: Waiting) -> None:
        if self.overflown:
            return
        self._last = None  # behind another message the same event is news again
        self._put(waiting)
        if self._events > self._limit and not self._conflating:
            self._conflate()
        # One event larger than the limit is still sent; what comes behind it has to wait for the client to come back.
        if self._answers > MAX_ANSWERS or (self._events > self._limit and len(self._pending) > 1):
            self.overflown = True
            self._pending.clear()
        self._wake()

    def _put(self, waiting: Waiting) -> None:
        name: object = next(self._serial)
        if self._conflating and waiting.droppable and isinstance(waiting.message, Placed):
            name = waiting.message.event.channel, waiting.message.event.key
            if (older := self._pending.pop(name, None)) is not None:
                self._count(older, -1)
                self.conflated += 1
        self._pending[name] = waiting
        self._count(waiting, 1)

    def _count(self, waiting: Waiting, sign: Literal[1, -1]) -> None:
        if waiting.answer:
            self._answers += sign * waiting.size
        else:
            self._events += sign * waiting.size

    def _keep_last(self) -> None:
        """A selection that wants all wants the event that another one has just queued."""
        if self._pending:  # not taken since, nor overflown
            _, waiting = self._pending.popitem()
            self._count(waiting, -1)
            self._put(waiting._replace(droppable=False))

    def _conflate(self) -> None:
        """From now on keep the newest event per key, in order."""
        everything = list(self._pending.values())
        self._pending.clear()
        self._events = self._answers = 0
        self._conflating = True
        for waiting in everything:
            self._put(waiting)


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


def _size(items: Mapping[str, Raw]) -> int:
    return 200 + sum(len(key) + len(bytes(value)) for key, value in items.items())
