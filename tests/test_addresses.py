"""Addresses with real servers, and with resolvers that say of a name what they like."""

from __future__ import annotations

import asyncio
import gzip
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.netutil import Resolver
from tornado.web import Application, RequestHandler

from realtime import addresses
from realtime.addresses import Address, NoAnswer
from realtime.errors import ConfigError
from tests.web import Answer, listening, saying

MAX_BODY = 1 << 20
NAME = "weather.example"


class Names(Resolver):
    """Says these in turn, whatever the name."""

    def initialize(self, *answers: tuple[str, ...]) -> None:
        self.answers, self.asked = list(answers), list[str]()

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        self.asked.append(host)
        found = self.answers.pop(0)
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, (each, port)) for each in found]


class Door(RequestHandler):
    def initialize(self, answer: Answer, asked: list[str]) -> None:
        self.answer, self.asked = answer, asked

    async def get(self) -> None:
        self.asked.append(self.request.path)
        answered = self.answer(self)
        if answered is not None:
            await answered


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[int, list[str]]]:
    """Its port, and the paths that it was asked for."""
    asked: list[str] = []
    async with listening(Application([(r"/.*", Door, {"answer": answer, "asked": asked})])) as base:
        yield int(base.rpartition(":")[2]), asked


def address(url: str, *, inside: bool = False, resolver: Resolver | None = None) -> Address:
    return Address("some.uri", url, max_body=MAX_BODY, inside=inside, resolver=resolver)


# what is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]"])
async def test_loopback_may_be_asked_by_name(host: str) -> None:
    async with serving(saying(200, b"here")) as (port, asked):
        response = await address(f"http://{host}:{port}/a?b=1").get()
        assert (response.code, response.body, asked) == (200, b"here", ["/a"])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://weather.example/v1", "weather.example by https"),
        ("http://127.0.0.1.example/", "by https"),
        ("http://localhost.example/", "by https"),
        ("http://localhost@weather.example/", "weather.example by https"),
        ("http://0.0.0.0/", "by https"),
        ("http://2130706433/", "by https"),  # 127.0.0.1 to some resolvers
        ("http://10.0.0.1/", "by https"),
        ("file:///etc/passwd", "no https URL"),
        ("gopher://127.0.0.1/", "no https URL"),
        ("https://", "no https URL"),
        ("weather.example", "no https URL"),
        ("https://[::1", "Invalid IPv6 URL"),
        ("https://10.0.0.1/", "10.0.0.1 is not asked"),
        ("https://169.254.169.254/", "169.254.169.254 is not asked"),
        ("https://[fd00:ec2::254]/", "is not asked"),
        ("https://[::ffff:10.0.0.1]/", "is not asked"),
    ],
)
def test_what_may_not_be_asked_is_refused_at_start(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"some\.uri: .*{words}"):
        address(url)


REFUSED = [
    "127.0.0.1",
    "::1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "::",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "ff02::1",
    "203.0.113.7",
]


@pytest.mark.asyncio
@pytest.mark.parametrize("ip", REFUSED)
@pytest.mark.parametrize("beside", [(), ("93.184.215.14",)])
async def test_a_name_that_stands_for_something_inside_is_not_asked(ip: str, beside: tuple[str, ...]) -> None:
    async with serving(saying(200, b"secret")) as (port, asked):
        resolver = Names((*beside, ip))
        with pytest.raises(NoAnswer, match=f"{NAME} stands for .*, which is not asked"):
            await address(f"https://{NAME}:{port}/", resolver=resolver).get()
        assert (resolver.asked, asked) == ([NAME], [])


@pytest.mark.asyncio
@pytest.mark.parametrize("ip", ["93.184.215.14", "2606:2800:21f::1", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"])
async def test_a_name_in_public_is_connected_to_as_it_was_looked_at(ip: str) -> None:
    resolver = Names((ip,))
    checked = address(f"https://{NAME}/", resolver=resolver)._resolver
    found = await checked.resolve("other.example", 443)  # however Tornado reads the URL
    assert (resolver.asked, [place[0] for _, place in found]) == ([NAME], [ip])


@pytest.mark.asyncio
async def test_a_name_is_resolved_once_each_time() -> None:
    """The second time it stands for something else: so it is looked at again, and not before."""
    async with serving(saying(200, b"here")) as (port, asked):
        resolver = Names(("127.0.0.1",), ("10.0.0.1",))
        there = address(f"http://localhost:{port}/", resolver=resolver)
        assert (await there.get()).body == b"here"
        with pytest.raises(NoAnswer, match="localhost stands for 10"):
            await there.get()
        assert (len(resolver.asked), len(asked)) == (2, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("ip", "good"),
    [
        *((ip, True) for ip in ("10.1.2.3", "fd12::1", "100.64.0.1", "93.184.215.14")),
        *((ip, False) for ip in ("127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0")),
    ],
)
async def test_its_owner_may_say_that_it_is_inside(ip: str, good: bool) -> None:
    checked = address(f"https://{NAME}/", inside=True, resolver=Names((ip,)))._resolver
    if good:
        assert len(await checked.resolve(NAME, 443)) == 1
    else:
        with pytest.raises(OSError, match="is not asked"):
            await checked.resolve(NAME, 443)


# what answers -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    async with serving(saying(status, Location="/other")) as (port, asked):
        assert (await address(f"http://127.0.0.1:{port}/").get()).code == status
        assert asked == ["/"]


def streamed(size: int) -> Answer:
    async def drip(handler: RequestHandler) -> None:
        for _ in range(size >> 16):
            handler.write(b" " * (1 << 16))
            await handler.flush()

    return drip


def zipped(size: int) -> Answer:
    return saying(200, gzip.compress(b" " * size), Content_Encoding="gzip")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [lambda size: saying(200, b" " * size), streamed, zipped])
async def test_a_body_has_an_end(kind: Callable[[int], Answer]) -> None:
    async with serving(kind(MAX_BODY)) as (port, _):
        assert len((await address(f"http://127.0.0.1:{port}/").get()).body) == MAX_BODY
    async with serving(kind(MAX_BODY + (1 << 16))) as (port, _):
        with pytest.raises(NoAnswer):
            await address(f"http://127.0.0.1:{port}/").get()


@pytest.mark.asyncio
async def test_a_bomb_costs_no_memory() -> None:
    answer = zipped(256 << 20)
    async with serving(answer) as (port, _):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(NoAnswer):
            await address(f"http://127.0.0.1:{port}/").get()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


@pytest.mark.asyncio
async def test_headers_have_an_end() -> None:
    async with serving(saying(200, X_Long="x" * (17 << 10))) as (port, _):
        with pytest.raises(NoAnswer):
            await address(f"http://127.0.0.1:{port}/").get()


RAW = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "no header": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk too large": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
    "a size too long": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000,
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxx",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx",
    "half a gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\n"
    + gzip.compress(b"x" * 99)[:12],
    "no header's end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
}


@pytest.mark.expects_logs
@pytest.mark.asyncio
@pytest.mark.parametrize("kind", RAW)
async def test_what_is_no_answer_is_none(kind: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(RAW[kind])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        with pytest.raises(NoAnswer):
            await address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/").get()


async def late(handler: RequestHandler) -> None:
    await asyncio.sleep(1)


async def trickling(handler: RequestHandler) -> None:
    for _ in range(50):
        handler.write(b" ")
        await handler.flush()
        await asyncio.sleep(0.02)


@pytest.mark.asyncio
@pytest.mark.parametrize("slow", [late, trickling])
async def test_who_is_slow_is_not_waited_for(slow: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (addresses.CONNECT, addresses.REQUEST) == (5, 10)
    monkeypatch.setattr(addresses, "REQUEST", 0.2)
    async with serving(slow) as (port, asked):
        start = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswer, match="Timeout during request"):
            await address(f"http://127.0.0.1:{port}/").get()
        assert asyncio.get_running_loop().time() - start < 0.8
        assert asked == ["/"]


@pytest.mark.asyncio
async def test_who_takes_no_connection_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "CONNECT", 0.2)
    with socket.socket() as full:  # its line is one long, and stays full
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        start = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswer, match="Timeout while connecting"):
            await address(f"http://127.0.0.1:{full.getsockname()[1]}/").get()
        assert asyncio.get_running_loop().time() - start < 2
        for each in waiting:
            each.close()


@pytest.mark.asyncio
async def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswer):
            await address(f"http://127.0.0.1:{free.getsockname()[1]}/").get()


@pytest.mark.asyncio
async def test_a_name_that_no_resolver_takes() -> None:
    with pytest.raises(NoAnswer, match="label"):
        await address(f"https://{'a' * 64}.example/").get()
