"""The two protocols as clients speak them, against others' implementations of the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import websockets
from websockets.asyncio.server import ServerConnection, serve

from realtime.verify.connection import Defect, Ended, Frames, connected, frame
from tests.verify.answers import HEAD, answering

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def speaking(serve_one: Callable[[ServerConnection], Awaitable[None]], protocol: str = "p") -> AsyncIterator[str]:
    """A WebSocket server; its address."""
    async with serve(serve_one, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("p")]) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "answer",
    [
        [HEAD + b"Content-Length: 11\r\n\r\nhello ", b"world"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhel", b"lo \r\n", b"5;x=y\r\nworld\r\n0\r\n\r\n"],
        [HEAD + b"\r\nhello ", b"world"],
    ],
    ids=["length", "chunked", "until the end"],
)
async def test_a_body_is_read_as_it_comes(answer: list[bytes]) -> None:
    async with answering(*answer) as address, connected(address) as connection:
        got = await connection.get("/", {}, 5)
        assert (got.status, await got.whole(5)) == (200, b"hello world")


@pytest.mark.parametrize(
    "answer",
    [HEAD + b"Content-Length: 11\r\n\r\nhello", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", HEAD],
    ids=["length", "chunked", "head"],
)
async def test_a_broken_answer_is_an_end(answer: bytes) -> None:
    with pytest.raises(Ended):
        async with answering(answer) as address, connected(address) as connection:
            await (await connection.get("/", {}, 5)).whole(5)


async def test_a_silent_server_is_an_end() -> None:
    with pytest.raises(Ended):
        async with answering(open_end=True) as address, connected(address) as connection:
            await connection.get("/", {}, 0.05)


async def test_nobody_there_is_an_end() -> None:
    async with answering() as address:
        pass
    with pytest.raises(Ended, match="Refused"):
        async with connected(address):
            pass


@pytest.mark.parametrize("politely", [True, False])
async def test_leaving(politely: bool) -> None:
    """Politely, the server reads an end; else, that its connection was reset."""
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.set_result("end" if await reader.read() == b"" else "data")
        except ConnectionResetError:
            seen.set_result("reset")
        writer.close()

    server = await asyncio.start_server(watch, "127.0.0.1", 0)
    async with server, asyncio.timeout(5):
        async with connected(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", politely=politely):
            pass
        assert await seen == ("end" if politely else "reset")


async def hear_all(address: str, heard: list[bytes]) -> None:
    """Until the connection ends, one way or another."""
    async with connected(address) as connection:
        socket = await connection.upgrade("/", "p")
        while True:
            heard += [payload for payload, _ in await socket.receive()]


async def test_websocket_messages_both_ways() -> None:
    """Text and binary, small and large, in one frame and in several, with a ping between them."""
    large = "x" * 70_000

    async def talk(connection: ServerConnection) -> None:
        await connection.send("text")
        await connection.send(b"\x00\xff")
        await (await connection.ping())  # answered, or this never ends
        await connection.send(["in ", "several ", "frames"])
        await connection.send("m" * 300)
        await connection.send(large)
        await connection.send(f"heard {await connection.recv()!r} {await connection.recv()!r}")
        await connection.wait_closed()

    async with speaking(talk) as address, connected(address) as connection, asyncio.timeout(5):
        socket = await connection.upgrade("/", "p")
        socket.send(b"hello", binary=False)
        socket.send(b"y" * 200, binary=True)
        received: list[tuple[bytes, bool]] = []
        while len(received) < 6:
            received += await socket.receive()
        said = f"heard 'hello' {b'y' * 200!r}".encode()
        assert [each for each, _ in received] == [
            b"text", b"\x00\xff", b"in several frames", b"m" * 300, large.encode(), said
        ]  # fmt: skip
        assert [binary for _, binary in received] == [False, True, False, False, False, False]
        await socket.goodbye()


@pytest.mark.parametrize(("code", "what"), [(1012, Ended), (4008, Ended), (1011, Defect), (4500, Defect)])
async def test_a_close_code_says_whether_to_come_back(code: int, what: type[Exception]) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.send("last words")
        await connection.close(code, "why")

    heard: list[bytes] = []
    async with speaking(close) as address, asyncio.timeout(5):
        with pytest.raises(what, match=f"{code} why"):
            await hear_all(address, heard)
    assert heard == [b"last words"]


async def test_goodbye_is_a_close_frame() -> None:
    codes: list[int | None] = []

    async def wait(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with speaking(wait) as address, connected(address) as connection, asyncio.timeout(5):
        await (await connection.upgrade("/", "p")).goodbye()
    assert codes == [1000]


async def test_another_subprotocol_is_a_defect() -> None:
    async with answering(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Protocol: q\r\n\r\n") as address:
        with pytest.raises(Defect):
            async with connected(address) as connection:
                await connection.upgrade("/", "p")


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"404 Not Found"])
async def test_a_refused_websocket(status: bytes) -> None:
    """For now, or for ever."""
    async with answering(b"HTTP/1.1 " + status + b"\r\n\r\n") as address:
        with pytest.raises(Ended if status.startswith(b"5") else Defect):
            async with connected(address) as connection:
                await connection.upgrade("/", "p")


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
async def test_frames_come_in_pieces_of_any_size(size: int) -> None:
    payloads = [b"", b"small", b"m" * 126, b"l" * 300]
    unmasked = b"".join(
        bytes([0x81]) + (bytes([len(each)]) if len(each) < 126 else b"\x7e" + len(each).to_bytes(2)) + each
        for each in payloads
    )
    frames = Frames()
    heard = [each for start in range(0, len(unmasked), size) for each in frames.feed(unmasked[start : start + size])]
    assert [each.payload for each in heard] == payloads


async def test_what_a_client_sends_is_masked() -> None:
    assert frame(1, b"x" * 20)[1] & 0x80
    assert b"x" * 20 not in frame(1, b"x" * 20)
