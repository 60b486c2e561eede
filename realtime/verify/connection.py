"""A client's end of one connection: an HTTP answer as it comes, or a WebSocket.

On a socket of our own, since clients here come and go. Tornado's AsyncHTTPClient and websocket_connect do not let go of
a connection when they are cancelled, cannot cut one, and log the reset by a node that was killed as an error of ours.
What is needed of the two protocols is little: a GET (RFC 9112), and the frames of one who says little (RFC 6455).
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from typing import NamedTuple
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders, parse_response_start_line

CONNECT = 3.0  # seconds until a connection is there, and upgraded
GOODBYE = 1.0  # seconds that one who leaves politely waits for the answer
CHUNK = 1 << 16  # bytes read in one go
NARROW = 1 << 15  # bytes of a socket's buffer; through 8 KiB, set this late, next to nothing passes on a local network

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10  # RFC 6455, 5.2
LEAVING = 1000


class Ended(Exception):
    """The conversation is over: refused, broken off, silent or closed. Its cursors lead on, here or elsewhere."""


class Defect(Exception):
    """A node and we do not understand each other: one of us has a defect, and coming back is no help."""


@asynccontextmanager
async def connected(address: str, *, politely: bool = True, narrow: bool = False) -> AsyncIterator[Connection]:
    """A connection for as long as the block lasts; whatever it dies of is an Ended.

    `politely`: it is closed in the end, not reset. `narrow`: as little as possible waits on our side to be read.
    """
    try:
        async with asyncio.timeout(CONNECT):
            connection = await _connect(address, narrow)
        try:
            yield connection
        finally:
            connection.leave(politely)
    except (OSError, EOFError) as error:
        raise Ended(repr(error)) from error


async def _connect(address: str, narrow: bool) -> Connection:
    url = urlsplit(address)
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=secure or None, limit=CHUNK)
    if narrow:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
    return Connection(reader, writer, url.netloc)


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    async def get(self, target: str, headers: Mapping[str, str], seconds: float) -> Answer:
        """Ask; the answer once its head has come, within `seconds`."""
        fields = {"Host": self._host, **headers}
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(seconds):
            head = await self._reader.readuntil(b"\r\n\r\n")
        first, _, rest = head.decode("latin-1").partition("\r\n")
        return Answer(parse_response_start_line(first).code, HTTPHeaders.parse(rest), self._reader)

    async def upgrade(self, target: str, subprotocol: str) -> WebSocket:
        """RFC 6455, 4.1. Raises Ended where the node wants no WebSocket now."""
        asked = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": subprotocol,
        }
        answer = await self.get(target, asked, CONNECT)
        if answer.status >= 500:
            raise Ended(f"no WebSocket: {answer.status}")
        chosen = answer.headers.get("Sec-WebSocket-Protocol")
        if (answer.status, chosen) != (101, subprotocol):
            raise Defect(f"asked for a WebSocket of {subprotocol}: {answer.status}, {chosen}")
        return WebSocket(self._reader, self._writer)

    def leave(self, politely: bool) -> None:
        """Let go at once; the node is told by a FIN, or by a RST."""
        if not politely and not self._writer.is_closing():
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


class Answer:
    """An HTTP answer whose body is still coming."""

    def __init__(self, status: int, headers: HTTPHeaders, reader: asyncio.StreamReader) -> None:
        self.status, self.headers = status, headers
        self._reader = reader
        self._left = int(headers.get("Content-Length", "-1"))  # bytes; -1: not known

    async def read(self, seconds: float) -> bytes:
        """The next piece, within `seconds`; empty at the end. (RFC 9112, 6.3)"""
        async with asyncio.timeout(seconds):
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                size = int((await self._reader.readuntil(b"\n")).partition(b";")[0], 16)
                return (await self._reader.readexactly(size + 2))[:-2]
            piece = await self._reader.read(CHUNK if self._left < 0 else min(CHUNK, self._left))
        if self._left > 0:
            if not piece:
                raise EOFError(f"{self._left} bytes are missing")
            self._left -= len(piece)
        return piece

    async def whole(self, seconds: float) -> bytes:
        pieces = []
        while piece := await self.read(seconds):
            pieces.append(piece)
        return b"".join(pieces)


class Frame(NamedTuple):
    final: bool
    opcode: int
    payload: bytes


class Frames:
    """A server's frames, out of the bytes as they come; pure. (RFC 6455, 5.2)"""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._buffer) < 2:
            return None
        first, size = self._buffer[0], self._buffer[1]
        start = 2 + {126: 2, 127: 8}.get(size, 0)
        if start > 2:
            size = int.from_bytes(self._buffer[2:start])
        if len(self._buffer) < start + size:
            return None
        payload = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return Frame(bool(first & 0x80), first & 0x0F, payload)


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's, masked, of less than 64 KiB. (RFC 6455, 5.3)"""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    mask = os.urandom(4)
    return bytes([0x80 | opcode]) + length + mask + bytes(each ^ key for each, key in zip(payload, cycle(mask)))


class WebSocket:
    """A client's, without extensions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = Frames()
        self._message = Frame(True, CONTINUATION, b"")  # what has come of it
        self._closed: Exception | None = None

    def send(self, payload: bytes, *, binary: bool) -> None:
        self._writer.write(frame(BINARY if binary else TEXT, payload))

    async def receive(self) -> list[tuple[bytes, bool]]:
        """The messages in what comes next, each with whether it is binary. Raises Ended once it is closed."""
        if self._closed is not None:
            raise self._closed
        data = await self._reader.read(CHUNK)
        if not data:
            raise EOFError("the connection is gone")
        taken = [self._take(each) for each in self._frames.feed(data)]
        return [(each.payload, each.opcode == BINARY) for each in taken if each is not None]

    async def goodbye(self) -> None:
        """Close as one should: say so, and let the server close the connection. (RFC 6455, 7.1.2)"""
        with suppress(OSError):
            self._writer.write(frame(CLOSE, LEAVING.to_bytes(2)))
            async with asyncio.timeout(GOODBYE):
                while await self._reader.read(CHUNK):
                    pass

    def _take(self, one: Frame) -> Frame | None:
        """The message that it completes."""
        if one.opcode == CLOSE:
            self._writer.write(frame(CLOSE, one.payload[:2]))
            self._closed = _closed(int.from_bytes(one.payload[:2]), one.payload[2:].decode())
        if one.opcode == PING:
            self._writer.write(frame(PONG, one.payload))
        if one.opcode not in (CONTINUATION, TEXT, BINARY):
            return None
        before = self._message
        self._message = Frame(one.final, one.opcode or before.opcode, before.payload + one.payload)
        if not one.final:
            return None
        message, self._message = self._message, Frame(True, CONTINUATION, b"")
        return message


def _closed(code: int, reason: str) -> Exception:
    """What a close code means (docs/protocol.md): some say to come back, others that there is no use."""
    come_back = code in (0, 1000, 1001, 1012, 1013) or 4000 <= code < 4500
    return (Ended if come_back else Defect)(f"closed with {code} {reason}".rstrip())
