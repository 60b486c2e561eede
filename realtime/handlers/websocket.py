"""The protocol over a WebSocket: many subscriptions, both ways, JSON as text frames or MessagePack as binary ones.

Nothing is awaited in `on_message`, where Tornado reads the pongs: each subscribe runs as a task of its own, and one
writer sends what waits in the session, so that a store that is slow to answer holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..errors import Draining, ProtocolError, RealtimeError, TooMany, TooSlow
from ..protocol import (
    Codec,
    Failure,
    Outgoing,
    Ping,
    Pong,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode_request,
    encode,
)
from ..session import MAX_SUBSCRIPTIONS
from ..tasks import Tasks
from .base import HEARTBEAT, Conversation, Handler

log = logging.getLogger("realtime.websocket")

SUBPROTOCOLS: dict[str, Codec] = {"realtime.v1.json": "json", "realtime.v1.msgpack": "msgpack"}
GOING_AWAY, INTERNAL_ERROR = 1012, 1011  # the registry of RFC 6455: service restart, internal error


class LiveSocket(WebSocketHandler, Handler):
    codec: Codec = "json"
    conversation: Conversation | None = None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        chosen = next((name for name in subprotocols if name in SUBPROTOCOLS), None)
        self.codec = SUBPROTOCOLS[chosen] if chosen else "json"
        return chosen

    async def prepare(self) -> None:
        if self.door.draining:
            raise Draining("this node is stopping")

    def open(self, *_: str, **__: str) -> None:
        self.set_nodelay(True)
        self._tasks = Tasks()
        self._joining: dict[int | str, asyncio.Task[None]] = {}
        self.conversation = Conversation(self.door, "websocket")
        self.conversation.cut, self.conversation.abort = self._cut, self._abort
        self.door.enter(self.conversation)
        self.session = self.conversation.session
        self.session.send(Welcome(self.node.name, HEARTBEAT))
        self._tasks.start(self._send(self.conversation), "websocket writer")

    def on_message(self, frame: str | bytes) -> None:
        try:
            request = decode_request(frame, self.codec)
        except RealtimeError as error:
            self._fail(error.about if isinstance(error, ProtocolError) else None, error)
            return
        match request:
            case Subscribe():
                self._subscribe(request)
            case Unsubscribe():
                self._unsubscribe(request)
            case Ping():
                self.session.send(Pong())

    def on_close(self) -> None:
        if self.conversation is not None:
            self.conversation.leave()
            self.door.leave(self.conversation)
            closing = asyncio.ensure_future(self._tasks.close())
            closing.add_done_callback(lambda done: done.cancelled() or done.exception())

    # requests -------------------------------------------------------------------------------------------------------

    def _subscribe(self, request: Subscribe) -> None:
        if request.id in self._joining:
            self._fail(request.id, ProtocolError(f"subscription id {request.id!r} is in use"))
            return
        if len(self._joining) >= MAX_SUBSCRIPTIONS:
            self._fail(request.id, TooMany(f"more than {MAX_SUBSCRIPTIONS} subscriptions on one connection"))
            return
        self._joining[request.id] = self._tasks.start(self._join(request), f"subscribe {request.channel}")

    async def _join(self, request: Subscribe) -> None:
        try:
            await self.node.subscribe(self.session, request)
        except RealtimeError as error:
            self._fail(request.id, error)
        except Exception:
            log.exception("subscribe to %s", request.channel)
            self._fail(request.id, RealtimeError("our mistake: it is in the log"))
        finally:
            if self._joining.get(request.id) is asyncio.current_task():  # not one that took its id since
                del self._joining[request.id]

    def _unsubscribe(self, request: Unsubscribe) -> None:
        """Also of one that is not answered yet; of one that does not exist it is no mistake: it is gone."""
        if (joining := self._joining.pop(request.id, None)) is not None:
            joining.cancel()
        if (subscription := self.session.subscriptions.get(request.id)) is not None:
            self.node.unsubscribe(subscription)
        self.session.send(Unsubscribed(request.id))

    def _fail(self, id_: int | str | None, error: RealtimeError) -> None:
        self.session.send(Failure(id_, error.code, str(error), error.hint or ""))

    # sending --------------------------------------------------------------------------------------------------------

    async def _send(self, conversation: Conversation) -> None:
        """The one writer: all that waits, then wait again. Back-pressure is the socket's."""
        try:
            while not conversation.over:
                await self._flush()
                if self.door.draining:
                    self.close(GOING_AWAY, "the node restarts: come back at once")
                    return
                if not await conversation.news(HEARTBEAT):
                    self.node.refresh(self.session)
        except (WebSocketClosedError, StreamClosedError):
            conversation.leave()
        except Exception:  # a message that cannot be sent: a socket that is open but silent would be worse
            log.exception("a message could not be sent")
            self.close(INTERNAL_ERROR, "our mistake: come back and resume from your cursor")

    async def _flush(self) -> None:
        writing = [self._write(message) for message in self.session.take()]
        for result in await asyncio.gather(*map(asyncio.shield, writing), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _write(self, message: Outgoing) -> asyncio.Future[None]:
        """Its failure may be that of the one behind it, too, raised at once: then nobody waits for this one."""
        writing = self.write_message(encode(message, self.codec), self.codec == "msgpack")
        writing.add_done_callback(lambda write: write.cancelled() or write.exception())
        return writing

    def _abort(self) -> None:
        if self.ws_connection is not None and self.ws_connection.stream is not None:
            self.ws_connection.stream.close()

    def _cut(self) -> None:
        """The close frame comes behind what is buffered; of a client that takes nothing, Tornado lets go after 5 s."""
        self.close(TooSlow.close, "too slow: come back and resume from your cursor")
