"""What we rely on in Tornado's IOStream, on real sockets: what is sent past its buffer keeps its place among the rest.

These fail when Tornado changes what `realtime/handlers/straight.py` reaches into.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import pytest
import websockets
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler
from websockets.asyncio.client import ClientConnection

from realtime.frames import websocket_frame
from realtime.handlers.straight import Straight, forget_handshake, stream_of
from tests.wait import until
from tests.watcher import _narrow

pytestmark = pytest.mark.asyncio

LARGE = 1 << 16


class Socket(WebSocketHandler):
    """Gives itself to whoever made the server; writes down pongs."""

    def initialize(self, opened: asyncio.Future[Socket]) -> None:
        self.opened = opened
        self.pongs: list[bytes] = []
        self.relieved = 0

    def open(self, *_: str, **__: str) -> None:
        forget_handshake(self)
        self.stream = stream_of(self)
        self.others: list[bool] = []  # whether the stream was clear when Tornado was about to write
        self.straight = Straight(self.stream, self._relieved, lambda: self.others.append(self.straight.clear))
        self.opened.set_result(self)

    def on_pong(self, data: bytes) -> None:
        self.pongs.append(data)

    def _relieved(self) -> None:
        self.relieved += 1

    def fill(self) -> int:
        """Numbers in large frames until the kernel takes no more; how many there are."""
        sent = 1
        while self.straight.send(numbered(sent - 1)):
            sent += 1
        return sent


def numbered(number: int) -> bytes:
    return websocket_frame(b"%d %s" % (number, b"x" * LARGE), binary=False)


@asynccontextmanager
async def connected(tls: ssl.SSLContext | None = None, **given: Any) -> AsyncIterator[tuple[Socket, ClientConnection]]:
    """A server's socket and its client, which takes next to nothing as long as nobody reads."""
    opened: asyncio.Future[Socket] = asyncio.get_running_loop().create_future()
    server = HTTPServer(Application([("/", Socket, {"opened": opened})]), ssl_options=tls)
    [listening] = bind_sockets(0, "127.0.0.1")
    server.add_socket(listening)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    narrow = await _narrow(f"http://{address}")
    try:
        async with websockets.connect(
            f"{'wss' if tls else 'ws'}://{address}", sock=narrow, max_queue=1, max_size=None, close_timeout=1, **given
        ) as client:
            yield await opened, client
    finally:
        server.stop()
        await server.close_all_connections()


async def numbers(client: ClientConnection, count: int) -> list[int]:
    async with asyncio.timeout(10):
        return [int(str(await client.recv()).split()[0]) for _ in range(count)]


async def test_what_the_kernel_takes_never_sees_the_buffer() -> None:
    async with connected() as (socket, client):
        assert type(socket.stream) is IOStream
        assert socket.straight.send(websocket_frame(b"1", binary=False))
        assert socket.stream._total_write_index == socket.stream._total_write_done_index  # nothing of ours in there
        assert not socket.straight.held
        assert await numbers(client, 1) == [1]
        assert (len(socket.request.headers), len(socket._headers), len(socket.ui)) == (0, 0, 0)


async def test_what_the_kernel_refuses_is_in_the_buffer_and_goes_out_in_order() -> None:
    async with connected() as (socket, client):
        sent = socket.fill()
        assert socket.straight.held
        assert 0 < len(socket.stream._write_buffer) <= len(numbered(sent))  # the remainder of one send
        assert socket.stream.writing()
        assert await numbers(client, sent) == list(range(sent))
        await until(lambda: socket.relieved == 1)
        assert not socket.straight.held
        assert socket.straight.send(numbered(7))
        assert await numbers(client, 1) == [7]


async def test_nothing_overtakes_what_tornado_has_in_its_buffer() -> None:
    """The kernel has room again, and Tornado has not heard of it."""
    async with connected() as (socket, client):
        written = 0
        socket.stream.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 12)
        while not socket.stream.writing():
            socket.write_message(f"{written} {'x' * LARGE}")
            written += 1
        socket.stream.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 17)
        socket.straight.send(numbered(written))
        socket.write_message(f"{written + 1} from Tornado")
        assert await numbers(client, written + 2) == list(range(written + 2))


async def test_a_ping_behind_a_full_buffer_is_answered() -> None:
    async with connected() as (socket, client):
        sent = socket.fill()
        socket.ping(b"there?")
        assert await numbers(client, sent) == list(range(sent))
        await until(lambda: socket.pongs == [b"there?"])
        assert socket.straight.send(numbered(7))
        assert await numbers(client, 1) == [7]


async def test_a_close_frame_comes_behind_a_full_buffer() -> None:
    async with connected() as (socket, client):
        sent = socket.fill()
        socket.close(4008, "too slow")
        assert await numbers(client, sent) == list(range(sent))
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4008, "too slow")


@pytest.mark.parametrize("full", [False, True])
async def test_a_connection_that_is_gone_takes_nothing(full: bool) -> None:
    """Also where this loop has not heard of it as yet; nobody is told that it takes something again."""
    async with connected() as (socket, client):
        if full:
            socket.fill()
        client.transport.abort()
        await asyncio.sleep(0)
        if not full:
            while socket.straight.send(numbered(1)):  # the kernel takes some before it hears
                pass
        await until(socket.stream.closed)
        assert not socket.straight.send(b"")
        assert not socket.straight.send(numbered(1))
        assert socket.relieved == 0


async def test_before_tornado_writes_it_says_so() -> None:
    """Pings, pongs, messages and close frames: all that may leave something in the buffer."""
    async with connected() as (socket, client):
        writes: list[Callable[[], object]] = [
            lambda: socket.ping(b"1"),
            lambda: socket.write_message("2"),
            lambda: socket.close(1000),
        ]
        for number, write in enumerate(writes, 1):
            write()
            assert socket.others == [True] * number
        socket.straight.close()
        assert "write" not in vars(socket.stream)
    async with connected() as (socket, client):
        await client.ping(b"?")
        await until(lambda: socket.others == [True])
        socket.fill()  # which is ours, and no other's
        assert (socket.others, socket.straight.clear) == ([True], False)


async def test_what_a_send_past_us_left_comes_before_all_else() -> None:
    async with connected() as (socket, client):
        assert socket.straight.raw is not None
        frame, sent = numbered(0), 0
        with suppress(BlockingIOError):
            while (taken := socket.straight.raw(frame)) == len(frame):
                sent += 1
                taken = 0
        socket.straight.rest(frame[taken:])
        assert socket.straight.held
        assert not socket.straight.send(numbered(7))
        assert await numbers(client, sent + 2) == [0] * (sent + 1) + [7]
        await until(lambda: socket.relieved == 2)
        socket.straight.rest(websocket_frame(b"8", binary=False))  # of which the kernel takes all by now
        assert socket.relieved == 3
        assert await numbers(client, 1) == [8]


async def test_no_client_is_promised_compression() -> None:
    """A frame for all cannot be compressed for one."""
    async with connected(compression="deflate") as (socket, client):
        assert "Sec-WebSocket-Extensions" not in (client.response.headers if client.response else {})
        assert socket.straight.send(websocket_frame(b"1", binary=False))
        assert await numbers(client, 1) == [1]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Made by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", *words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_tls_goes_its_ordinary_way(certificate: tuple[Path, Path]) -> None:
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(*certificate)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with connected(server, ssl=trusting) as (socket, client):
        assert isinstance(socket.stream, SSLIOStream)
        assert socket.straight.raw is None
        assert socket.straight.send(numbered(0))
        assert not socket.straight.held
        assert await numbers(client, 1) == [0]
        sent = socket.fill()
        assert socket.straight.held
        assert await numbers(client, sent) == list(range(sent))
        await until(lambda: socket.relieved == 1)
