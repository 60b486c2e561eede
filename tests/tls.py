"""Certificates by openssl, and what speaks TLS before a server that cannot: the bundled ones were built without it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

GSS_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x30"  # libpq asks for that first, where it has a ticket
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Certificates:
    """`ca` signed `cert` (of `localhost`, which `key` belongs to); `other` is the CA of somebody else."""

    def __init__(self, home: Path) -> None:
        self.ca, self.other = home / "ca.pem", home / "other.pem"
        self.cert, self.key = home / "cert.pem", home / "key.pem"
        for ca in (self.ca, self.other):
            _openssl("req", "-x509", *_KEY, "-subj", f"/CN={ca.stem}", "-keyout", ca.with_suffix(".key"), "-out", ca)
        _openssl(
            "req", "-x509", *_KEY, "-subj", "/CN=localhost", "-keyout", self.key, "-out", self.cert,
            "-CA", self.ca, "-CAkey", self.ca.with_suffix(".key"),
            "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip

    def context(self) -> ssl.SSLContext:
        """A server's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@contextmanager
def certificates() -> Iterator[Certificates]:
    with tempfile.TemporaryDirectory(prefix="realtime-tls-") as home:
        yield Certificates(Path(home))


Target = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def relay(made: Certificates, to: Callable[[], Awaitable[Target]]) -> AsyncIterator[int]:
    """A port of 127.0.0.1 that speaks TLS, and passes on to what does not."""
    async with _passing(to, _at_once, ssl=made.context()) as port:
        yield port


@asynccontextmanager
async def postgres_relay(made: Certificates | None, to: Callable[[], Awaitable[Target]]) -> AsyncIterator[int]:
    """The same as PostgreSQL does it: in plain text a client asks for TLS, and hears S or (without `made`) N."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readexactly(8) == GSS_REQUEST:
            writer.write(b"N")
        writer.write(b"S" if made else b"N")
        if made:
            await writer.start_tls(made.context())

    async with _passing(to, greet) as port:
        yield port


async def _at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


@asynccontextmanager
async def _passing(
    to: Callable[[], Awaitable[Target]],
    greet: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    ssl: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await greet(reader, writer)
        except (OSError, EOFError):  # it did not like the certificate
            return
        there = await to()
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(_pass_on(source, sink))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()
