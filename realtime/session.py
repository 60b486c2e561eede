"""The server's side of one client's conversation: what it subscribes to, and what waits to be sent to it.

Pure: no clock, no sockets. A transport gives `wake`, is woken when something waits, and takes it. A subscription is
*joining* while its snapshot or history is read (live events wait in its line), then *live*; as long as a fence or a
cursor ahead of this node asks for it, it looks at each event, after that events pass without a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count

import msgspec
from msgspec import UNSET, Raw

from .errors import ProtocolError, TooMany
from .protocol import Cursor, Fresh, Mode, Outgoing, Placed, Reset, Subscribe, Subscribed, beyond

MAX_PENDING = 1 << 20  # bytes that may wait for one session; beyond it `latest` conflates and `all` has to come back
MAX_LINE = 10_000  # events that may wait for one joining subscription; beyond it the join starts again
MAX_SUBSCRIPTIONS = 128  # per session
PART_ITEMS, PART_BYTES = 500, 1 << 18  # a larger snapshot goes out in several messages

Contains = Callable[[str, str], bool]


class Subscription:
    """(session, channel, selector): one key, or all. `cursor` is what the client has once it took all that waits."""

    __slots__ = ("_contains", "channel", "cursor", "id", "key", "line", "mode", "plain", "session", "stale")

    def __init__(self, session: Session, request: Subscribe, contains: Contains) -> None:
        self.session, self.id, self.channel, self.key = session, request.id, request.channel, request.key
        self.mode: Mode = request.mode
        self.cursor = Cursor("", 0)
        self.line: list[Placed] | None = []  # None once live
        self.stale = False  # the join under way rests on what is no longer so: start it again
        self.plain = False  # live, and no event needs a look any more
        self._contains = contains

    def wants(self, event: Placed) -> bool:
        return self.key is None or self.key == event.event.key

    def begin(self) -> None:
        """Start joining (again): from now on events wait in the line."""
        self.line, self.stale, self.plain = [], False, False

    def deliver(self, event: Placed) -> None:
        """Take an event of the channel; they come in order, each once, all of one epoch."""
        if self.plain:
            self.session.pass_on(event, self.mode)
        elif self.line is None:
            self._look(event)
        elif len(self.line) < MAX_LINE:
            self.line.append(event)
        else:
            self.stale = True

    def _look(self, event: Placed) -> None:
        place, fence = event.cursor, self.cursor.fence
        if place.offset <= self.cursor.offset:
            return  # in the history that it resumed with, or before its snapshot
        if fence and beyond(fence, event.event.version):
            fence = ""
        self.plain = not fence and self.line is None
        shown = not (fence and self._contains(fence, event.event.version))
        self.cursor = Cursor(place.epoch, place.offset, fence)
        if shown:
            self.session.pass_on(event, self.mode, self.cursor)

    def show(self, cursor: Cursor, items: Mapping[str, Raw], reason: str = "") -> None:
        """Answer the subscribe with a snapshot, then go live with what waits in the line."""
        for part, more in _parts(items):
            answer = Subscribed(self.id, self.channel, str(cursor), part, self._selector(), more, reason)
            self.session.send(answer, _size(part))
        self._go_live(cursor, ())

    def resume(self, cursor: Cursor, history: Iterable[Placed]) -> None:
        """Answer the subscribe with what came after its cursor, then go live."""
        self.session.send(Subscribed(self.id, self.channel, str(cursor), None, self._selector()))
        self._go_live(cursor, history)

    def reset(self, cursor: Cursor, items: Mapping[str, Raw], reason: str) -> None:
        """History broke while live: replace the state, then go live again."""
        for part, more in _parts(items):
            self.session.send(Reset(self.channel, str(cursor), part, reason, self._selector(), more), _size(part))
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
        for event in filter(self.wants, history):
            self._look(event)
        self.plain = False  # history may be ahead of this node, which then delivers some of it again
        for event in line:
            if event.cursor.epoch == cursor.epoch:
                self._look(event)

    def _selector(self) -> str | msgspec.UnsetType:
        return UNSET if self.key is None else self.key


class Session:
    """One client. `wake` is called when something waits; the transport then calls `take`."""

    def __init__(self, wake: Callable[[], None], *, limit: int = MAX_PENDING) -> None:
        self.subscriptions: dict[int | str, Subscription] = {}
        self.overflown = False  # too slow even when conflated: the transport closes with TooSlow
        self._wake, self._limit = wake, limit
        self._pending: dict[object, tuple[Outgoing, int]] = {}  # in order; conflated: events by (channel, key)
        self._size = 0
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

    def pass_on(self, event: Placed, mode: Mode, cursor: Cursor | None = None) -> None:
        """Queue an event, once even if several selections want it; with a fence in `cursor`, as a frame of its own."""
        if event is self._last:
            return
        self._last = event
        own = event.fenced(cursor.fence) if cursor is not None and cursor.fence else event
        self.send(own, len(own.json), mode)

    def send(self, message: Outgoing, size: int = 200, mode: Mode = "latest") -> None:
        """Queue a message of about `size` bytes and wake the transport."""
        if self.overflown:
            return
        name = self._name(message)
        if self._conflating and (replaced := self._pending.pop(name, None)):
            self._size -= replaced[1]
        self._pending[name] = message, size
        self._size += size
        if self._size > self._limit:
            self._shrink(mode)
        self._wake()

    def take(self) -> list[Outgoing]:
        """All that waits, in order; it is the transport's now."""
        messages = [message for message, _ in self._pending.values()]
        self._pending.clear()
        self._size, self._conflating = 0, False
        return messages

    @property
    def waiting(self) -> bool:
        return bool(self._pending)

    def _name(self, message: Outgoing) -> object:
        if self._conflating and isinstance(message, Placed):
            return message.event.channel, message.event.key
        return next(self._serial)

    def _shrink(self, mode: Mode) -> None:
        """Keep the newest event per key, in order. What only `all` subscriptions promised cannot be left out."""
        if mode == "latest" and not self._conflating:
            waiting, self._pending = self._pending, {}
            self._conflating, self._size = True, 0
            for message, size in waiting.values():
                self.send(message, size)
        # One message larger than the limit is still sent; a second one has to wait for the client to come back.
        if self._size > self._limit and (mode == "all" or len(self._pending) > 1):
            self.overflown = True
            self._pending.clear()
            self._size = 0


class Places:
    """The cursor of several selections as one: what a client that was sent all messages so far has to hand back."""

    def __init__(self, selections: Iterable[Subscribe]) -> None:
        self._of = {(each.channel, each.key): Cursor("", 0) for each in selections}

    def sent(self, message: Outgoing) -> None:
        """Move on by a message that goes out now."""
        match message:
            case Placed():
                self._pass(message.event.channel, message.cursor, message.event.version)
            case Subscribed() | Reset() | Fresh() if not getattr(message, "more", False):
                key = None if message.key is UNSET else str(message.key)
                self._of[message.channel, key] = Cursor.parse(message.cursor)

    def _pass(self, channel: str, place: Cursor, version: str) -> None:
        for name, cursor in self._of.items():
            if name[0] == channel and (cursor.epoch, cursor.offset) < (place.epoch, place.offset):
                fence = "" if beyond(cursor.fence, version) else cursor.fence
                self._of[name] = Cursor(place.epoch, place.offset, fence)

    @property
    def single(self) -> bool:
        return len(self._of) == 1

    def __str__(self) -> str:
        return "~".join(map(str, self._of.values()))


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
