"""Others at the other end: what refuses, redirects, closes for good, or speaks no protocol of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from realtime.client import Forbidden, ProtocolError, RealtimeError, TooMany, Unauthorized, Unavailable, connect
from tests.client.conftest import Node
from tests.wait import until

pytestmark = pytest.mark.asyncio

WELCOME = '{"type": "welcome", "node": "peer", "heartbeat": 25}'


def at(server: Server) -> str:
    return f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@asynccontextmanager
async def closing(*codes: int) -> AsyncIterator[tuple[str, list[float]]]:
    """Greets, and closes with these codes in turn; when each came."""
    came: list[float] = []

    async def talk(connection: ServerConnection) -> None:
        came.append(asyncio.get_running_loop().time())
        await connection.send(WELCOME)
        await connection.close(codes[min(len(came), len(codes)) - 1])

    async with serve(talk, "127.0.0.1", 0) as server:
        yield at(server), came


@asynccontextmanager
async def answering(answer: Callable[[int], bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers each request, by number, with these bytes, and closes; what it heard."""
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(len(heard)))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


def status(number: int, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {number} Some", *headers, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


async def test_what_closes_for_good_is_given_up() -> None:
    async with closing(4500) as (url, came), connect(url) as live:
        with pytest.raises(ProtocolError, match="4500"):
            await anext(live.watch("redis/rooms"))
        assert len(came) == 1


@pytest.mark.parametrize(("code", "least"), [(1012, 0.0), (4000, 0.0), (4429, 1.0)])
async def test_what_closes_for_now_is_come_back_to(code: int, least: float) -> None:
    async with closing(code, 4500) as (url, came), connect(url) as live:
        with pytest.raises(ProtocolError, match="4500"):
            await anext(live.watch("redis/rooms"))
        assert least <= came[1] - came[0] < least + 2


@pytest.mark.parametrize(
    ("number", "error"), [(401, Unauthorized), (403, Forbidden), (426, ProtocolError), (404, ProtocolError)]
)
async def test_what_refuses_is_given_up(number: int, error: type[RealtimeError]) -> None:
    async with answering(lambda _: status(number)) as (url, heard), connect(url, token="t") as live:
        with pytest.raises(error):
            await anext(live.watch("redis/rooms"))
        assert len(heard) == 1
        with pytest.raises(error if number in (401, 403) else RealtimeError):
            await live.get("redis/rooms", "attic")


async def test_what_is_busy_is_come_back_to_when_it_says() -> None:
    async with (
        answering(lambda count: status(503, "Retry-After: 1") if count == 1 else status(403)) as (url, heard),
        connect(url) as live,
    ):
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Forbidden):
            await anext(live.watch("redis/rooms"))
        assert len(heard) == 2
        assert asyncio.get_running_loop().time() - begun >= 1


async def test_a_token_goes_nowhere_else(node: Node) -> None:
    async with answering(lambda _: status(403)) as (elsewhere, heard):
        sends_away = status(302, f"Location: {elsewhere}/v1/ws")
        async with answering(lambda _: sends_away) as (url, asked), connect(url, token="secret") as live:
            with pytest.raises(ProtocolError, match="302"):
                await anext(live.watch("redis/rooms"))
            with pytest.raises(RealtimeError, match="302"):
                await live.get("redis/rooms", "attic")
        assert heard == []
        assert [b"secret" in each for each in asked] == [True, True]


async def test_what_speaks_otherwise_is_given_up() -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send('{"type": "hello"}')
        await connection.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as server, connect(at(server)) as live:
        with pytest.raises(ProtocolError, match="hello"):
            await anext(live.watch("redis/rooms"))


async def test_answers_of_a_proxy() -> None:
    said = {
        502: Unavailable,
        504: Unavailable,
        429: TooMany,
        413: RealtimeError,
    }
    for number, error in said.items():
        page = status(number, "Retry-After: 7", "Content-Type: text/html", body="<html>")
        async with answering(lambda _, page=page: page) as (url, _), connect(url) as live:  # type: ignore[misc]
            with pytest.raises(error, match=str(number)) as raised:
                await live.put("redis/rooms", "attic", 1)
            assert raised.value.retry_after == 7


async def test_half_an_answer_is_none() -> None:
    async with (
        answering(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1") as (url, heard),
        connect(url) as live,
    ):
        with pytest.raises(Unavailable):
            await live.put("redis/rooms", "attic", 1)
        assert len(heard) == 1  # what may have been done is not done again


async def test_requests_share_a_few_connections(node: Node) -> None:
    async with connect(node.address) as live:
        await asyncio.gather(*(live.put("memory/rooms", f"k{number}", 1, wait=True) for number in range(60)))
        http = live._http
        assert http is not None
        assert 1 <= len(http._open) <= 16
        before = set(http._open)
        for _ in range(5):
            await live.post("memory/rooms", 1)
        assert set(http._open) == before


async def test_a_request_that_is_cancelled_takes_its_connection_along(node: Node) -> None:
    async with connect(node.address) as live:
        http = live._http
        assert http is not None
        request = asyncio.create_task(live.put("memory/rooms", "attic", 1, wait=True))
        await until(lambda: len(http._open) == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert len(http._open) == 0
        assert (await live.post("memory/rooms", 2)).key


async def test_a_token_from_a_file_has_a_line_end() -> None:
    async with answering(lambda _: status(403)) as (url, heard), connect(url, token="secret\n") as live:
        with pytest.raises(Forbidden):
            await live.get("redis/rooms", "attic")
        assert b"Bearer secret\r\n" in heard[0]
    with pytest.raises(ValueError, match="token"):
        connect("http://127.0.0.1:1", token="two\nlines")
