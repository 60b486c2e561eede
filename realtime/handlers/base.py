"""What all handlers share: the parts they speak to, errors as JSON, and how long conversations end when the node stops.

Errors become answers here and nowhere else, so that every door says the same thing in the same words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http.client import responses
from typing import Any

import msgspec
from msgspec import Raw
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from ..errors import Conflict, Draining, NotFound, ProtocolError, RealtimeError, Unavailable, Unsupported
from ..node import Node
from ..protocol import etag
from ..session import Session

log = logging.getLogger("realtime.handlers")

HEARTBEAT = 25  # seconds between two signs of life on a WebSocket
MAX_BODY = 1 << 20  # bytes of a value
MERGE_PATCH = "application/merge-patch+json"


class Conversation:
    """A session, whatever transports it, that waits for the next message, the client's leaving or the node's stop."""

    def __init__(self, door: Door, transport: str) -> None:
        self.session = Session(self.wake)
        self.transport = transport
        self.over = False  # the client has gone
        self.abort: Callable[[], None] | None = None  # lets go of the connection at once
        self.cut: Callable[[], None] | None = None  # ends a connection that takes too little, even while it blocks
        self._woken = asyncio.Event()
        self._slow = False  # more waited than may wait, and that was counted
        self._door = door

    def wake(self) -> None:
        self._woken.set()
        metrics, session = self._door.node.metrics, self.session
        if session.conflated:
            metrics.conflated.inc(session.conflated)
            session.conflated = 0
        if session.overflown and not self._slow:
            self._slow = True
            metrics.slow.inc()
            if self.cut is not None:
                self.cut()

    def leave(self) -> None:
        """The client has gone."""
        self.over = True
        self.wake()

    async def news(self, seconds: float) -> bool:
        """Wait until there is something to do; False when nothing came in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def __enter__(self) -> Conversation:
        self._door.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._door.leave(self)


class Door:
    """What handlers are given: the node, and the conversations under way on it."""

    def __init__(self, node: Node, *, demo: bool = False) -> None:
        self.node, self.demo = node, demo
        self.draining = False
        self._open: set[Conversation] = set()
        self._empty = asyncio.Event()
        self._empty.set()

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
        if not self._open:
            self._empty.set()

    async def drain(self, seconds: float) -> None:
        """Let no one in, wake everyone so that they say good-bye, and wait for them to leave."""
        self.draining = True
        for conversation in list(self._open):
            conversation.wake()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d clients did not leave within %g s", len(self._open), seconds)
            for conversation in list(self._open):
                if conversation.abort is not None:
                    conversation.abort()


class Handler(RequestHandler):
    """`door` is all that a handler knows of the rest."""

    def initialize(self, door: Door) -> None:
        self.door, self.node = door, door.node

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")

    def answer(self, body: object, status: int = 200) -> None:
        """JSON, whatever msgspec can encode."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(body) + b"\n")

    async def head(self, *path: str) -> None:
        """As GET; Tornado leaves the body out."""
        answering = self.get(*path)
        if answering is not None:
            await answering

    def argument(self, name: str) -> str | None:
        """A query argument to the letter: Tornado's own getter takes off blanks and replaces control characters."""
        values = self.request.query_arguments.get(name)
        try:
            return values[-1].decode() if values else None
        except UnicodeDecodeError:
            raise ProtocolError(f"{name} is not UTF-8") from None

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A query argument within its bounds. Raises ProtocolError."""
        text = self.get_query_argument(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            raise ProtocolError(f"{name} is not a number: {text[:40]!r}") from None
        if not least <= value <= most:
            raise ProtocolError(f"{name} must be {least:g} to {most:g}, not {text[:40]}")
        return value

    def tag(self, value: Raw | None) -> None:
        if value is not None:
            self.set_header("ETag", f'"{etag(bytes(value))}"')

    # errors ---------------------------------------------------------------------------------------------------------

    def write_error(self, status_code: int, **given: Any) -> None:
        error = given["exc_info"][1] if "exc_info" in given else None
        if isinstance(error, RealtimeError):
            self._say(error)
        elif status_code == 405:
            self._say_method()
        else:
            message = (error.log_message if isinstance(error, HTTPError) else None) or responses.get(status_code, "")
            code = {400: "bad_request", 404: "not_found", 403: "forbidden"}.get(status_code, "internal")
            self.answer({"error": {"code": code, "message": message.lower()}}, status_code)

    def _say(self, error: RealtimeError) -> None:
        body: dict[str, object] = {"error": error.body()}
        if isinstance(error, Conflict):
            current = None if error.current is None else Raw(error.current)
            body["current"] = current
            self.tag(current)
        if isinstance(error, Unavailable):
            self.set_header("Retry-After", str(error.retry_after))
        if isinstance(error, Unsupported):
            self.set_header("Accept-Patch", MERGE_PATCH)
        if error.status == 405:
            self.set_header("Allow", "GET, HEAD")
        self.answer(body, error.status)

    def _say_method(self) -> None:
        allowed = [verb for verb in self.SUPPORTED_METHODS if self._has(verb)]
        self.set_header("Allow", ", ".join(allowed))
        method = self.request.method
        self.answer(
            {
                "error": {
                    "code": "method_not_allowed",
                    "message": f"no {method} here",
                    "hint": f"allowed: {', '.join(allowed)}",
                }
            },
            405,
        )

    def _has(self, verb: str) -> bool:
        mine = getattr(type(self), verb.lower(), None)
        return mine is not None and mine is not getattr(RequestHandler, verb.lower())

    def send_error(self, status_code: int = 500, **given: Any) -> None:
        error = given["exc_info"][1] if "exc_info" in given else None
        super().send_error(error.status if isinstance(error, RealtimeError) else status_code, **given)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """What a client is told needs no traceback; what it did not wait for, no line at all."""
        if not isinstance(value, (RealtimeError, HTTPError, StreamClosedError)):
            log.error("%s %s", self.request.method, self.request.path, exc_info=(typ, value, tb))


class Missing(Handler):
    """Every path that no other handler has."""

    def prepare(self) -> None:
        raise NotFound(f"nothing at {self.request.path[:200]}", hint="docs/protocol.md lists what there is")
