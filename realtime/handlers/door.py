"""What handlers are given: the node, and the conversations under way on it, which end when the node stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tornado.iostream import BaseIOStream

from ..audience import Way
from ..errors import Draining
from ..node import Node
from ..session import Session
from ..tasks import Tasks
from .heart import Heart
from .turns import Turns

log = logging.getLogger("realtime.handlers")

PORTION = 1 << 17  # bytes that are handed to a connection at a time, about, where more waits


class Conversation:
    """A session, and the transport that sends what waits in it."""

    __slots__ = ("_door", "_slow", "session", "transport")

    def __init__(self, door: Door, transport: str, way: Way | None = None) -> None:
        self.session = Session(self.wake, way=way, later=_later)
        self.transport = transport
        self._door = door
        self._slow = False  # more waited than may wait, and that was counted

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

    def __init__(self, door: Door, transport: str, stream: BaseIOStream) -> None:
        super().__init__(door, transport)
        self.over = False  # the client has gone
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
        self._door.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._door.leave(self)


class Door:
    def __init__(self, node: Node, *, demo: bool = False) -> None:
        self.node, self.demo = node, demo
        self.draining = False
        self.turns, self.heart = Turns(), Heart()
        self.over = self.turns.crowd  # one for all
        self.joins = Tasks()  # subscribes under way on WebSockets
        self._open: set[Conversation] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self) -> None:
        self.heart.open()

    async def close(self) -> None:
        await self.heart.close()
        await self.joins.close()

    def enter(self, conversation: Conversation) -> None:
        if self.draining:
            raise Draining("this node is stopping")
        self._open.add(conversation)
        self._empty.clear()
        self.node.metrics.connections.labels(conversation.transport).inc()

    def leave(self, conversation: Conversation) -> None:
        if conversation in self._open:
            self._open.remove(conversation)
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
