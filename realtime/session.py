"""The server's side of one client's conversation: what waits to be sent to it, and how much of that there may be.

Pure: no clock, no sockets. A transport gives `wake`, is woken when something waits, and takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from msgspec import Raw

from .audience import Way
from .errors import ProtocolError, TooMany
from .pace import Later, Pace
from .protocol import Message, Mode, Outgoing, Placed, Reset, Subscribed, encode
from .rights import EVERYTHING, Rights
from .waiting import Entry, Waiting

MAX_PENDING = 1 << 20  # bytes of events that may wait for a session; beyond it it has to come back
MAX_ANSWERS = 1 << 24  # bytes of answers that may wait for a session; beyond it it has to come back
MAX_SUBSCRIPTIONS = 128  # per session, unless set


class Subscribing(Protocol):
    """A subscription, as far as its session has to know it."""

    id: int | str
    channel: str
    plain: bool
    pace: Pace | None

    def enter(self, way: Way) -> bool:
        """The crowd, if it is to be had."""

    def leave(self) -> None:
        """The crowd, with what it was handed in this turn."""


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
        "_later",
        "_limit",
        "_most",
        "_paces",
        "_stalled",
        "_waiting",
        "_wake",
        "closed",
        "overflown",
        "rights",
        "subscriptions",
        "way",
    )

    def __init__(
        self,
        wake: Callable[[], None],
        *,
        limit: int = MAX_PENDING,
        most: int = MAX_SUBSCRIPTIONS,
        way: Way | None = None,
        later: Later | None = None,
        rights: Rights = EVERYTHING,
    ) -> None:
        """`most`: subscriptions. `later`: without it all come as fast as they do."""
        self.subscriptions: dict[int | str, Any] = {}  # Subscription, which is above us
        self.overflown = False  # too slow even when conflated: the transport closes with TooSlow
        self.closed = False  # nothing is to be sent any more
        self.way, self.rights = way, rights
        self._wake, self._limit, self._most, self._later = wake, limit, most, later
        self._paces: dict[str, Pace] = {}  # by channel
        self._in_crowd: Subscribing | None = None
        self._stalled = False  # the connection takes nothing at present
        self._waiting = Waiting()
        self._last: Placed | None = None

    def add(self, subscription: Subscribing, max_rate: float | None) -> Pace | None:
        """Raises ProtocolError where the id is in use or the rate another, TooMany beyond the limit."""
        if subscription.id in self.subscriptions:
            raise ProtocolError(
                f"subscription id {subscription.id!r} is in use", hint="choose another, or unsubscribe it first"
            )
        if len(self.subscriptions) >= self._most:
            raise TooMany(f"more than {self._most} subscriptions on one connection")
        pace = self._pace(subscription.channel, max_rate)
        self.step_out()
        self.subscriptions[subscription.id] = subscription
        return pace

    def remove(self, subscription: Subscribing) -> None:
        del self.subscriptions[subscription.id]
        if subscription.pace is not None and not any(self._of(subscription.channel)):
            subscription.pace.close()
            self._paces.pop(subscription.channel)

    def _of(self, channel: str) -> Iterator[Subscribing]:
        return (each for each in self.subscriptions.values() if each.channel == channel)

    def _pace(self, channel: str, max_rate: float | None) -> Pace | None:
        """All selections of a channel share theirs. Raises ProtocolError."""
        for other in self._of(channel):
            if (other.pace.max_rate if other.pace else None) != max_rate:
                raise ProtocolError(
                    f"another subscription of {channel} has another max_rate",
                    hint="selections of one channel that are to come at different rates need a connection each",
                )
            return other.pace
        if max_rate is None or self._later is None:
            return None
        pace = Pace(max_rate, self._later, lambda event: self.pass_on(event, event, "latest"))
        self._paces[channel] = pace
        return pace

    # queueing -------------------------------------------------------------------------------------------------------

    def pass_on(self, event: Placed, own: Placed, mode: Mode, *, answer: bool = False) -> None:
        """Queue an event, once even if several selections want it; `own`: itself, or a frame of its own."""
        droppable = mode == "latest" and not answer
        event = event.whole or event
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
        """Queue (a part of) a state, behind what is held of the channel."""
        if (pace := self._paces.get(message.channel)) is not None:
            pace.let_go()
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
        wake = self._wake
        if waiting.answers > MAX_ANSWERS or (waiting.events > self._limit and len(waiting) > 1):
            self.overflown = True
            self.close()
        wake()

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
        """Send nothing any more, keep nothing, not even the transport, so that nobody has to look for a circle."""
        self.closed = True
        self.step_out()
        self.way, self._wake = None, _nobody
        for pace in self._paces.values():
            pace.close()
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many messages."""
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._waiting.events + self._waiting.answers

    def spare(self, told_no_more: bool) -> None:
        self._waiting.conflated += told_no_more

    def spared(self) -> int:
        """How many events newer ones took the place of since this was asked last."""
        spared, self._waiting.conflated = self._waiting.conflated, 0
        return spared


def _nobody() -> None:
    pass


def _size(items: Mapping[str, Raw]) -> int:
    return 200 + sum(len(key) + len(bytes(value)) for key, value in items.items())
