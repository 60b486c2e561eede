"""What handlers are given: the node, and the conversations under way on it, which end when the node stops."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from tornado.iostream import BaseIOStream

from ..audience import Way
from ..auth.gate import Gate, Open
from ..auth.guard import Guard
from ..config import Config
from ..errors import Draining
from ..node import Node
from ..protocol import Subscribe
from ..rights import Identity
from ..session import Session
from ..subscription import Subscription
from ..tasks import Tasks
from .bounds import Bounds
from .heart import Heart
from .reviews import Reviews
from .turns import Turns

log = logging.getLogger("realtime.handlers")

DEFAULTS = Config()
WARNING = 30  # seconds before what somebody showed expires, in which they may show something newer
PORTION = 1 << 17  # bytes that are handed to a connection at a time, about, where more waits


class Conversation:
    """A session, and the transport that sends what waits in it."""

    __slots__ = ("_door", "_end", "_slow", "_warning", "identity", "session", "transport")

    def __init__(self, door: Door, transport: str, identity: Identity, way: Way | None = None) -> None:
        most, rights = door.bounds.limits.subscriptions, door.gate.rights(identity)
        self.session = Session(self.wake, most=most, way=way, later=_later, rights=rights)
        self.transport = transport
        self.identity = identity
        self._door = door
        self._slow = False  # more waited than may wait, and that was counted
        self._warning: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def admit(self, identity: Identity) -> None:
        """Who speaks from now on, or what they may from now on."""
        self.identity = identity
        self._door.bounds.known(self)
        self.session.rights = self._door.gate.rights(identity)
        self.limit()
        self._door.node.review(self.session)

    def limit(self) -> None:
        """To the time that their sign-in or token holds."""
        self._stop_clock()
        if self.identity.expires is not None:
            left = self.identity.expires - time.time()
            self._warning = _later(max(left - WARNING, 0), partial(self.warn, max(min(round(left), WARNING), 0)))
            self._end = _later(max(left, 0), partial(self.expel, "what you showed has expired"))

    def warn(self, seconds: int) -> None:
        """It ends so soon."""

    def expel(self, reason: str) -> None:
        """They may not be here any more."""
        raise NotImplementedError

    def _stop_clock(self) -> None:
        for timer in (self._warning, self._end):
            if timer is not None:
                timer.cancel()
        self._warning = self._end = None

    def wake(self) -> None:
        """Something waits."""
        raise NotImplementedError

    def farewell(self) -> None:
        """The node stops: say good-bye."""
        raise NotImplementedError

    def abort(self) -> None:
        """Let go of the connection at once."""
        raise NotImplementedError

    def cut(self) -> None:
        """End a connection that takes too little, even while it blocks."""
        raise NotImplementedError

    def close(self) -> None:
        """The connection has gone."""
        self.session.close()
        self._stop_clock()

    def count(self) -> None:
        """What a slow client is spared, or refused."""
        metrics = self._door.node.metrics
        if spared := self.session.spared():
            metrics.conflated.inc(spared)
        if self.session.overflown and not self._slow:
            self._slow = True
            metrics.slow.inc()
            self.cut()


class Awaiting(Conversation):
    """One whose handler waits for the next message, the client's leaving or the node's stop."""

    def __init__(
        self, door: Door, transport: str, stream: BaseIOStream, identity: Identity, address: str, turn: int
    ) -> None:
        super().__init__(door, transport, identity)
        self._address, self._turn = address, turn
        self.over = False  # the client has gone, or was told to
        self.expelled = False
        self.stream = stream
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()
        self.count()

    def farewell(self) -> None:
        self._woken.set()

    def abort(self) -> None:
        self.stream.close()

    def cut(self) -> None:
        if self.transport != "poll":  # which is told
            self.stream.close()

    def leave(self) -> None:
        """The client has gone."""
        self.over = True
        self._woken.set()

    def expel(self, reason: str) -> None:
        self.expelled = True
        self.leave()

    async def news(self, seconds: float) -> bool:
        """Wait until there is something to do; False when nothing came in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def __enter__(self) -> Awaiting:
        self._door.enter(self, self._address, self._turn)
        return self

    def __exit__(self, *_: object) -> None:
        self._door.leave(self)


class Door:
    def __init__(self, node: Node, guard: Guard | None = None, config: Config = DEFAULTS) -> None:
        """`guard`: without it nobody is asked who they are."""
        self.node, self.guard, self.demo = node, guard, config.demo
        self.gate: Gate = Open() if guard is None else guard.gate
        self.bounds = Bounds(config, node.metrics, asks=self.gate.asks)
        self.draining = False
        self.turns, self.heart = Turns(), Heart()
        self.over = self.turns.crowd  # one for all
        self.joins = Tasks()  # subscribes under way on WebSockets
        self._open: set[Conversation] = set()
        self._reviews = Reviews(self.gate, lambda: list(self._open))
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self) -> None:
        self.heart.open()
        self._reviews.open()

    async def close(self) -> None:
        await self._reviews.close()
        await self.heart.close()
        await self.joins.close()

    def review(self, user: str | None) -> None:
        """Something of this user's account has changed, or may have of all of them: look at who is here again."""
        self._reviews.due(user)

    async def subscribe(self, conversation: Conversation, request: Subscribe) -> Subscription:
        """As the node does, within what its user may have."""
        self.bounds.subscribe(conversation)
        return await self.node.subscribe(conversation.session, request)

    @property
    def turn(self) -> int:
        """Goes up with each review."""
        return self._reviews.turn

    def enter(self, conversation: Conversation, address: str, turn: int) -> None:
        """`turn`: when it was asked who this is."""
        if self.draining:
            raise Draining("this node is stopping")
        conversation.limit()
        self._open.add(conversation)
        self.bounds.enter(conversation, address)
        self.recheck(conversation.identity, turn)
        self._empty.clear()
        self.node.metrics.connections.labels(conversation.transport).inc()

    def recheck(self, identity: Identity, turn: int) -> None:
        """They are here now: what has changed since it was asked who they are was not looked at for them."""
        if identity.known and turn != self.turn:
            self.review(identity.user)

    def leave(self, conversation: Conversation) -> None:
        if conversation in self._open:
            self._open.remove(conversation)
            self.bounds.leave(conversation)
            self.node.metrics.connections.labels(conversation.transport).dec()
            self.node.release(conversation.session)
            conversation.close()
        if not self._open:
            self._empty.set()

    async def drain(self, seconds: float) -> None:
        """Let no one in, have everyone told good-bye, and wait for them to leave."""
        self.draining = True
        for conversation in list(self._open):
            conversation.farewell()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d clients did not leave within %g s", len(self._open), seconds)
            for conversation in list(self._open):
                conversation.abort()


def _later(seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(seconds, call)
