"""Where what waits in a WebSocket's session goes out: at the end of each turn of the loop, in one send.

What the kernel refuses goes to the stream's buffer, which so never holds more than one send's remainder; the rest stays
in the session, which conflates it, until the stream has got rid of that.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..audience import Way
from ..errors import TooSlow
from ..protocol import Codec, frame
from .door import PORTION, Conversation, Door
from .straight import Straight, stream_of

log = logging.getLogger("realtime.websocket")

GOING_AWAY, INTERNAL_ERROR = 1012, 1011  # the registry of RFC 6455: service restart, internal error


class Outlet(Conversation):
    __slots__ = ("_codec", "_due", "_socket", "_straight", "_stream", "answered")

    def __init__(self, door: Door, socket: WebSocketHandler, codec: Codec) -> None:
        self._socket, self._stream, self._codec = socket, stream_of(socket), codec
        self._straight = Straight(self._stream, self._relieved)
        self._due = False  # at the end of this turn
        self.answered = True  # the last ping
        super().__init__(door, "websocket", Way(codec, door.over, self._straight.send))

    def wake(self) -> None:
        if not self._due:
            self._due = True
            self._door.turns.outlet(self)

    def flush(self) -> None:
        """What waits in the session, as far as it goes."""
        self._due = False
        self.count()
        straight, session = self._straight, self.session
        try:
            while not straight.held and (messages := session.take(PORTION)):
                if not straight.send(b"".join([frame(message, self._codec) for message in messages])):
                    session.stall()
            session.settle()
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
        with suppress(WebSocketClosedError, StreamClosedError):  # Tornado's reader tells us
            self._socket.ping()
        self._door.node.refresh(self.session)

    def farewell(self) -> None:
        self.flush()
        self._end(GOING_AWAY, "the node restarts: come back at once")

    def cut(self) -> None:
        """The close frame comes behind what is buffered; of a client that takes nothing, Tornado lets go after 5 s."""
        self._end(TooSlow.close, "too slow: come back and resume from your cursor")

    def abort(self) -> None:
        self._stream.close()

    def close(self) -> None:
        super().close()
        self._straight.close()

    def _relieved(self) -> None:
        self.answered = True  # slow as it is, it is there
        self.session.flow()
        self.wake()

    def _end(self, code: int, reason: str) -> None:
        self.session.close()
        self._socket.close(code, reason)
