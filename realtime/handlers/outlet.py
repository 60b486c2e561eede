"""Where what waits in a WebSocket's session goes out: at the end of each turn of the loop, in one send.

What the kernel refuses goes to the stream's buffer, which so never holds more than one send's remainder; the rest stays
in the session, which conflates it, until the stream has got rid of that.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..audience import Way
from ..errors import RealtimeError, TooSlow, Unauthorized
from ..protocol import AuthExpiring, Codec, frame
from ..rights import Identity
from .door import PORTION, Conversation, Door
from .straight import Straight, stream_of

log = logging.getLogger("realtime.websocket")

UNKNOWN = 10  # seconds in which a client has to say who it is, where nothing is for nobody
GOING_AWAY, INTERNAL_ERROR = 1012, 1011  # the registry of RFC 6455: service restart, internal error


class Outlet(Conversation):
    __slots__ = ("_codec", "_due", "_socket", "_straight", "_stream", "answered")

    def __init__(self, door: Door, socket: WebSocketHandler, codec: Codec, identity: Identity) -> None:
        self._socket, self._stream, self._codec = socket, stream_of(socket), codec
        self._straight = straight = Straight(self._stream, self._relieved, self._step_out)
        self._due = False  # at the end of this turn
        self.answered = True  # the last ping
        way = None if straight.raw is None else Way(codec, door.over, straight.raw, straight.rest)
        super().__init__(door, "websocket", identity, way)

    def _step_out(self) -> None:
        """Tornado writes: into the crowd again when the turn is over, if that is out by then."""
        self.session.step_out()
        self.wake()

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
            if straight.clear:
                session.settle()
        except Exception:  # a message that cannot be sent: a socket that is open but silent would be worse
            log.exception("a message could not be sent")
            self._hang_up(INTERNAL_ERROR, "our mistake: come back and resume from your cursor")

    def beat(self) -> None:
        """A ping, and cursors of what was quiet; whoever has not answered since the last beat is gone."""
        if self.session.closed:
            return
        if not self.answered:
            self._hang_up(TooSlow.close, "silent for too long")
            return
        self.answered = False
        with suppress(WebSocketClosedError, StreamClosedError):  # Tornado's reader tells us
            self._socket.ping()
        self._door.node.refresh(self.session)

    def farewell(self) -> None:
        self.flush()
        self._hang_up(GOING_AWAY, "the node restarts: come back at once")

    def cut(self) -> None:
        """The close frame comes behind what is buffered; of a client that takes nothing, Tornado lets go after 5 s."""
        self._hang_up(TooSlow.close, "too slow: come back and resume from your cursor")

    def limit(self) -> None:
        super().limit()
        if not (self.identity.known or self._door.gate.anonymous):
            self._end = asyncio.get_running_loop().call_later(
                UNKNOWN, self.expel, f"nobody said who they are in {UNKNOWN} s"
            )

    def warn(self, seconds: int) -> None:
        self.session.send(AuthExpiring(seconds))

    def expel(self, reason: str) -> None:
        self.flush()
        self._hang_up(Unauthorized.close, reason)

    def refuse(self, error: RealtimeError) -> None:
        """It did not stop when it was told to."""
        self.flush()
        self._hang_up(error.close, str(error))

    def abort(self) -> None:
        self._stream.close()

    def close(self) -> None:
        super().close()
        self._straight.close()

    def _relieved(self) -> None:
        self.answered = True  # slow as it is, it is there
        self.session.flow()
        self.wake()

    def _hang_up(self, code: int | None, reason: str) -> None:
        self.session.close()
        self._socket.close(code, reason)
