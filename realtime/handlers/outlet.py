"""Where what waits in a WebSocket's session goes out: at the end of each turn of the loop, in one send.

What the kernel refuses goes to the stream's buffer, which so never holds more than one send's remainder; the rest stays
in the session, which conflates it, until the stream has got rid of that.
"""

from __future__ import annotations

import asyncio
import logging

from tornado.websocket import WebSocketHandler

from ..errors import TooSlow
from ..protocol import Codec, frame
from .door import Conversation, Door
from .straight import Straight, stream_of
from .turns import Joined

log = logging.getLogger("realtime.websocket")

PORTION = 1 << 17  # bytes of one send, about, where more waits
GOING_AWAY, INTERNAL_ERROR = 1012, 1011  # the registry of RFC 6455: service restart, internal error


class Outlet(Conversation):
    def __init__(self, door: Door, socket: WebSocketHandler, codec: Codec) -> None:
        super().__init__(door, "websocket")
        self.codec: Codec = codec
        self.answered = True  # the last ping
        self._socket, self._stream = socket, stream_of(socket)
        self._straight = Straight(self._stream)
        self._due = False  # at the end of this turn
        self._held = False  # the stream has bytes of ours that the kernel had no room for

    def wake(self) -> None:
        if not self._due:
            self._due = True
            self._door.turns.add(self)

    def flush(self, joined: Joined) -> None:
        self._due = False
        try:
            if not self.session.swift:
                self._drain()
            elif events := self.session.turn():
                self._send(joined.of(events))
        except OSError:  # it is gone, which Tornado's reader tells us
            self.session.close()
        except Exception:  # a message that cannot be sent: a socket that is open but silent would be worse
            log.exception("a message could not be sent")
            self._end(INTERNAL_ERROR, "our mistake: come back and resume from your cursor")

    def beat(self) -> None:
        """A ping, and cursors of what was quiet; whoever has not answered since the last beat is gone."""
        if self.session.closed:
            return
        if not self.answered:
            self._end(TooSlow.close, "silent for too long")
            return
        self.answered = False
        self._socket.ping()
        self._door.node.refresh(self.session)

    def farewell(self) -> None:
        self.flush(Joined(self.codec))
        self._end(GOING_AWAY, "the node restarts: come back at once")

    def cut(self) -> None:
        """The close frame comes behind what is buffered; of a client that takes nothing, Tornado lets go after 5 s."""
        self._end(TooSlow.close, "too slow: come back and resume from your cursor")

    def abort(self) -> None:
        self._stream.close()

    def _drain(self) -> None:
        self.count()
        while not self._held and (messages := self.session.take(PORTION)):
            self._send(b"".join([frame(message, self.codec) for message in messages]))

    def _send(self, data: bytes) -> None:
        held = self._straight.send(data)
        if held is not None:
            self._held = True
            self.session.stall()
            held.add_done_callback(self._relieved)

    def _relieved(self, held: asyncio.Future[None]) -> None:
        self._held = False
        if not held.cancelled() and held.exception() is None:
            self.session.flow()
            self.wake()

    def _end(self, code: int, reason: str) -> None:
        self.session.close()
        self._socket.close(code, reason)
