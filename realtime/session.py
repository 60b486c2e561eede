"""The server's side of one client's conversation: what it subscribes to, and what waits to be sent to it.

Pure: no clock, no sockets. A transport gives `wake`, is woken when something waits, and takes it. A subscription is
*joining* while its snapshot or history is read (live events wait in its line), then *live*; as long as a fence or a
cursor ahead of this node asks for it, it looks at each event, after that events pass without a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import UNSET, Raw

from .audience import Audience, Crowd, Way
from .errors import ProtocolError, TooMany
from .protocol import Cursor, Fresh, Message, Mode, Outgoing, Placed, Reset, Subscribe, Subscribed, beyond, encode
from .waiting import Entry, Waiting

MAX_TURN = (
    1 << 16
)  # bytes of events that one turn hands to a session without counting what waits; beyond it they line up
MAX_PENDING = 1 << 20  # bytes of events that may wait for a session; beyond it `latest` conflates, `all` comes back
MAX_ANSWERS = 1 << 24  # bytes of answers that may wait for a session; beyond it has to come back
MAX_LINE = 1 << 22  # bytes of events that may wait for one joining subscription; beyond it the join starts again
MAX_SUBSCRIPTIONS = 128  # per session
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
        "plain",
        "session",
        "stale",
    )

    def __init__(self, session: Session, request: Subscribe, contains: Contains) -> None:
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

    def wants(self, event: Placed) -> bool:
        return self.key is None or self.key == event.event.key

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

    def refused(self) -> None:
        self.session.stall()

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
        self.plain = not fence and self.line is None
        shown = not (fence and self._contains(fence, event.event.version))
        self._cursor = Cursor(place.epoch, place.offset, fence)
        if shown:
            own = event.fenced(fence) if fence else event
            self.session.pass_on(event, own, self.mode, answer=answer)

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
        if self.line is None and position.epoch == self._cursor.epoch:
            fence = "" if beyond(self._cursor.fence, version) else self._cursor.fence
            self._cursor = Cursor(position.epoch, max(position.offset, self.cursor.offset), fence)
        return self.cursor

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

    def _selector(self) -> str | msgspec.UnsetType:
        return UNSET if self.key is None else self.key


class Session:
    """One client. `wake` is called when something waits; the transport then calls `take`.

    Where a crowd can reach it (`way`) and nothing waits, its one subscription stands in the crowd, and the session is
    handed nothing at all. What waits is bounded. What comes by itself by `limit`: a client that does not keep up is
    given the newest event of each key, or has to come back. Answers have a bound of their own, since all of one is
    queued before the transport has its turn.
    """

    __slots__ = (
        "_in_crowd",
        "_last",
        "_limit",
        "_stalled",
        "_waiting",
        "_wake",
        "closed",
        "overflown",
        "subscriptions",
        "way",
    )

    def __init__(self, wake: Callable[[], None], *, limit: int = MAX_PENDING, way: Way | None = None) -> None:
        self.subscriptions: dict[int | str, Subscription] = {}
        self.overflown = False  # too slow even when conflated: the transport closes with TooSlow
        self.closed = False  # nothing is to be sent any more
        self.way = way
        self._wake, self._limit = wake, limit
        self._in_crowd: Subscription | None = None
        self._stalled = False  # the connection takes nothing at present
        self._waiting = Waiting()
        self._last: Placed | None = None

    def add(self, request: Subscribe, contains: Contains) -> Subscription:
        """Raises ProtocolError where the id is in use, TooMany beyond the limit."""
        if request.id in self.subscriptions:
            raise ProtocolError(
                f"subscription id {request.id!r} is in use", hint="choose another, or unsubscribe it first"
            )
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise TooMany(f"more than {MAX_SUBSCRIPTIONS} subscriptions on one connection")
        self.step_out()
        subscription = self.subscriptions[request.id] = Subscription(self, request, contains)
        return subscription

    # queueing -------------------------------------------------------------------------------------------------------

    def pass_on(self, event: Placed, own: Placed, mode: Mode, *, answer: bool = False) -> None:
        """Queue an event, once even if several selections want it; `own`: itself, or a frame of its own."""
        droppable = mode == "latest" and not answer
        if event is self._last:
            if not droppable:
                self._waiting.keep_last()
            return
        self._queue(Entry(own, own.size, answer, droppable))
        self._last = event

    def send(self, message: Message) -> None:
        """Queue a message that comes by itself."""
        self._queue(Entry(message, len(encode(message, "json")), answer=False, droppable=False))

    def answer(self, message: Subscribed | Reset) -> None:
        """Queue (a part of) a state."""
        self._queue(Entry(message, _size(message.items or {}), answer=True, droppable=False))

    def _queue(self, entry: Entry) -> None:
        if self.closed:
            return
        self.step_out()
        waiting = self._waiting
        self._last = None  # behind another message the same event is news again
        waiting.put(entry)
        if waiting.events > self._limit:
            waiting.conflate()
        # One event larger than the limit is still sent; what comes behind it has to wait for the client to come back.
        if waiting.answers > MAX_ANSWERS or (waiting.events > self._limit and len(waiting) > 1):
            self.overflown = True
            self.close()
        self._wake()

    # sending --------------------------------------------------------------------------------------------------------

    def take(self, most: int = MAX_ANSWERS) -> list[Outgoing]:
        """The first of what waits, of about `most` bytes; it is the transport's now."""
        return self._waiting.take(most)

    def stall(self) -> None:
        """The connection takes nothing at present: from now on keep the newest event of each key where that will do."""
        self.step_out()
        self._stalled = True
        self._waiting.conflate()

    def flow(self) -> None:
        """It takes something again."""
        self._stalled = False

    def settle(self) -> None:
        """All was taken: into the crowd, where nothing but its events can come."""
        if self.way is None or self._in_crowd or self._waiting or self._stalled or self.closed:
            return
        if len(self.subscriptions) == 1:
            [subscription] = self.subscriptions.values()
            if subscription.plain and subscription.enter(self.way):
                self._in_crowd = subscription

    def step_out(self) -> None:
        """Of the crowd; what it was handed in this turn so far is the first that waits."""
        if (subscription := self._in_crowd) is not None:
            self._in_crowd = None
            subscription.leave()

    def close(self) -> None:
        """Send nothing any more, keep nothing."""
        self.closed = True
        self.step_out()
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many messages."""
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._waiting.events + self._waiting.answers

    def spared(self) -> int:
        """How many events newer ones took the place of since this was asked last."""
        spared, self._waiting.conflated = self._waiting.conflated, 0
        return spared


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
