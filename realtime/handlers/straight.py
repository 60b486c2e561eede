"""Bytes straight to a stream's socket, past Tornado's buffer as long as that is empty. All that we know of its insides.

`IOStream.write` makes a future, copies into a buffer and copies out again, for each message to each client; where the
kernel has room, which is nearly always, one `send` does. What Tornado itself writes (pings, pongs, close frames) goes
its ordinary way, and so does everything under TLS. `tests/handlers/test_straight.py` fails when Tornado changes.
"""

from __future__ import annotations

import asyncio

from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler


def stream_of(socket: WebSocketHandler) -> IOStream:
    """Of one that is open. Raises StreamClosedError."""
    connection = socket.ws_connection
    if connection is None or connection.stream is None:
        raise StreamClosedError
    return connection.stream


class Straight:
    """Raises StreamClosedError where the connection is gone."""

    __slots__ = ("_buffer", "_send", "_stream")

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self._buffer = stream._write_buffer  # the same one until the stream is closed, which empties it
        self._send = stream.socket.send if type(stream) is IOStream else None

    def send(self, data: bytes) -> asyncio.Future[None] | None:
        """None: the kernel has it all. Else it will have it all, in its order, when this is done."""
        if self._send is None or self._buffer._size:
            return self._stream.write(data)
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._stream.close(exc_info=error)
            raise
        if sent == len(data):
            return None
        return self._stream.write(memoryview(data)[sent:])
