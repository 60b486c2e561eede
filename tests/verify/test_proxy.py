"""The proxy: what passes in which mode, on TCP and on unix sockets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from realtime.verify.proxy import Address, Proxy
from tests.wait import until

pytestmark = pytest.mark.asyncio

Kind = Literal["tcp", "unix"]
NOTHING = 0.2  # seconds in which nothing is to come


class Echo:
    """A server that answers each chunk with the same, in capital letters."""

    def __init__(self) -> None:
        self.heard = b""
        self.left = 0  # clients that have gone

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data.upper())
        except ConnectionResetError:
            pass
        self.left += 1
        writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    async def hear(self) -> bytes:
        """What comes next, nothing at the end."""
        async with asyncio.timeout(10):
            return await self._reader.read(1000)

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(NOTHING):
                await self._reader.read(1000)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._writer.close()


Connect = Callable[[], AbstractAsyncContextManager[Client]]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="realtime-") as path:
        yield Path(path)


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@asynccontextmanager
async def listening(echo: Echo, path: Path | None) -> AsyncIterator[Address]:
    if path:
        server = await asyncio.start_unix_server(echo.talk, path)
    else:
        server = await asyncio.start_server(echo.talk, "127.0.0.1", 0)
    try:
        yield str(path) if path else ("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


@pytest_asyncio.fixture
async def echo(kind: Kind, directory: Path) -> AsyncIterator[tuple[Echo, Address]]:
    echo = Echo()
    async with listening(echo, directory / "echo" if kind == "unix" else None) as address:
        yield echo, address


@pytest.fixture
def server(echo: tuple[Echo, Address]) -> Echo:
    return echo[0]


@pytest_asyncio.fixture
async def proxy(echo: tuple[Echo, Address], kind: Kind, directory: Path) -> AsyncIterator[Proxy]:
    async with Proxy(echo[1], directory / "proxy" if kind == "unix" else None) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Connect:
    @asynccontextmanager
    async def connected() -> AsyncIterator[Client]:
        if proxy.path:
            client = Client(*await asyncio.open_unix_connection(proxy.path))
        else:
            client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
        try:
            yield client
        finally:
            client.close()

    return connected


async def test_all_passes_and_so_does_the_end(proxy: Proxy, connect: Connect, server: Echo) -> None:
    async with connect() as client:
        client.say(b"a")
        assert await client.hear() == b"A"
        assert proxy.connections == 1
    await until(lambda: server.left == 1 and proxy.connections == 0)


async def test_new_connections_are_refused_and_old_ones_go_on(proxy: Proxy, connect: Connect) -> None:
    async with connect() as old:
        old.say(b"a")
        assert await old.hear() == b"A"
        proxy.mode = "refuse"
        async with connect() as new:
            assert await closed(new)
        old.say(b"b")
        assert await old.hear() == b"B"


async def test_deaf_is_to_hear_nothing(proxy: Proxy, connect: Connect, server: Echo) -> None:
    proxy.mode = "deaf"
    async with connect() as client:
        client.say(b"a")
        await until(lambda: server.heard == b"a")
        assert await client.hears_nothing()


@pytest.mark.parametrize("mode", ["mute", "blackhole"])
async def test_mute_is_not_to_be_heard(
    proxy: Proxy, connect: Connect, server: Echo, mode: Literal["mute", "blackhole"]
) -> None:
    proxy.mode = mode
    async with connect() as client:
        client.say(b"a")
        assert await client.hears_nothing()
        assert server.heard == b""


async def test_nothing_passes_either_way_in_a_black_hole_not_even_the_end(
    proxy: Proxy, connect: Connect, server: Echo
) -> None:
    async with connect() as client:
        client.say(b"a")
        assert await client.hear() == b"A"
        proxy.mode = "blackhole"
    async with connect() as other:
        other.say(b"b")
        assert await other.hears_nothing()
    assert (server.heard, server.left) == (b"a", 0)


async def test_what_was_swallowed_is_gone_and_its_connection_dead(proxy: Proxy, connect: Connect, server: Echo) -> None:
    async with connect() as old:
        proxy.mode = "deaf"
        old.say(b"a")
        await until(lambda: server.heard == b"a")
        assert await old.hears_nothing()
        proxy.mode = "ok"
        old.say(b"b")
        await until(lambda: server.heard == b"ab")
        assert await old.hears_nothing()
        async with connect() as new:
            new.say(b"c")
            assert await new.hear() == b"C"


async def test_slow_is_late_and_in_order(proxy: Proxy, connect: Connect) -> None:
    proxy.mode, proxy.delay = "slow", 0.1
    clock = asyncio.get_running_loop().time
    async with connect() as client:
        begin, heard = clock(), b""
        for word in b"abcdef":
            client.say(bytes([word]))
            await asyncio.sleep(0)
        while len(heard) < 6:
            heard += await client.hear()
            assert clock() - begin > 0.19  # there and back
        assert heard == b"ABCDEF"


async def test_a_reset_cuts_every_connection(proxy: Proxy, connect: Connect, server: Echo, kind: Kind) -> None:
    async with connect() as client:
        client.say(b"a")
        assert await client.hear() == b"A"
        proxy.reset()
        if kind == "tcp":
            with pytest.raises(ConnectionResetError):
                await client.hear()
        else:
            assert await closed(client)
        await until(lambda: server.left == 1 and proxy.connections == 0)
        async with connect() as again:
            again.say(b"b")
            assert await again.hear() == b"B"


async def test_a_server_that_is_gone_is_as_one_that_refuses(proxy: Proxy, connect: Connect, directory: Path) -> None:
    proxy.upstream = str(directory / "nowhere")
    async with connect() as client:
        assert await closed(client)


async def test_new_connections_go_to_a_new_upstream(proxy: Proxy, connect: Connect, server: Echo) -> None:
    moved = Echo()
    async with connect() as old, listening(moved, None) as address:
        old.say(b"a")
        assert await old.hear() == b"A"
        proxy.upstream = address
        async with connect() as new:
            new.say(b"b")
            assert await new.hear() == b"B"
        old.say(b"c")
        assert await old.hear() == b"C"
    assert (server.heard, moved.heard) == (b"ac", b"b")


async def closed(client: Client) -> bool:
    try:
        return await client.hear() == b""
    except ConnectionResetError:
        return True
