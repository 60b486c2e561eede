"""Bytes straight to a stream's socket, past Tornado's buffer as long as that is empty. All that we know of its insides.

`IOStream.write` makes a future, copies into a buffer and copies out again, for each message to each client; where the
kernel has room, which is nearly always, one `send` does. What Tornado itself writes (pings, pongs, close frames) goes
its ordinary way, and so does everything under TLS. `tests/handlers/test_straight.py` fails when Tornado changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from ..audience import Send

NONE = HTTPHeaders()


def stream_of(socket: WebSocketHandler) -> IOStream:
    """Of one that is open. Raises StreamClosedError."""
    connection = socket.ws_connection
    if connection is None or connection.stream is None:
        raise StreamClosedError
    return connection.stream


def forget_handshake(socket: WebSocketHandler) -> None:
    """What only the upgrade needed: each of thousands of idle connections would keep its own, some KiB."""
    socket.request.headers.clear()  # which its connection has, too
    socket.request.headers = socket._headers = NONE
    socket.ui.clear()


class Straight:
    """`relieved` is called when the kernel has taken what it had refused; `others` before Tornado writes anything: then
    the stream may have a buffer, past which nobody may send.
    """

    __slots__ = ("_buffer", "_others", "_relieved", "_stream", "_write", "held", "raw")

    def __init__(self, stream: IOStream, relieved: Callable[[], None], others: Callable[[], None]) -> None:
        self.held = False  # the stream has bytes of ours that the kernel had no room for: give it no more
        self._stream = stream
        self._relieved = relieved
        self._buffer = stream._write_buffer  # the same one until the stream is closed, which empties it
        # The socket's own `send`, for as long as this is `clear`; None where there is more to it (TLS).
        self.raw: Send | None = stream.socket.send if type(stream) is IOStream else None
        self._write, self._others = stream.write, others
        stream.write = self._by_others  # type: ignore[method-assign]

    @property
    def clear(self) -> bool:
        """Nothing is buffered, and nothing will be until `others` is called."""
        return not self._buffer._size

    def send(self, data: bytes) -> bool:
        """False: the kernel has not taken it all, and the stream has the rest; or the connection is gone."""
        sent = 0
        try:
            if self.raw is not None and not self._buffer._size:
                sent = self.raw(data)
                if sent == len(data):
                    return True
        except BlockingIOError:
            pass
        except OSError as error:
            self._stream.close(exc_info=error)
            return False
        return self._leave(memoryview(data)[sent:])

    def _leave(self, rest: memoryview) -> bool:
        """To the stream, behind what it has."""
        try:
            written = self._write(rest)
        except StreamClosedError:
            return False
        if written.done():
            return True
        self.held = True
        written.add_done_callback(self._written)
        return False

    def close(self) -> None:
        """Call nobody any more."""
        self._relieved = self._others = _nobody
        self._stream.__dict__.pop("write", None)

    def rest(self, data: bytes) -> None:
        """Of what was sent past us, what the kernel did not take."""
        if self._leave(memoryview(data)):
            self._relieved()

    def _by_others(self, data: bytes | memoryview) -> asyncio.Future[None]:
        self._others()
        return self._write(data)

    def _written(self, written: asyncio.Future[None]) -> None:
        self.held = False
        if not written.cancelled() and written.exception() is None:
            self._relieved()


def _nobody() -> None:
    pass
