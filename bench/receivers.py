"""Thousands of clients in one process of C (receivers.c), so that what is measured is the server and not its readers.

Its share of a core is in each of its reports: where that stays well below one, the readers waited for the server.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

HERE = Path(__file__).parent
WINDOW = 64  # connections on the way at a time: fewer than a server's backlog
PATIENCE = 120.0  # seconds until all are live

LOOK = 0.001  # seconds between two looks at the counts

SUBSCRIBED = '"type":"subscribed"'


class Quantiles(msgspec.Struct):
    """In seconds; of nothing where `n` is 0."""

    n: int
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Report(msgspec.Struct):
    """Counts since the start; `delays` since the last report. `cpu` and `clock` in seconds."""

    live: int
    closed: int
    events: int
    bytes: int
    reads: int
    skipped: int  # numbers that did not come
    wrong: int  # numbers at or below the last one
    cpu: float
    clock: float
    joins: Quantiles
    delays: Quantiles


class Doors(NamedTuple):
    """How clients come in: `mark` is in the message that says that one is in; nothing: the upgrade alone says so.

    `kind`: see receivers.c. `size`: of an event's message, in bytes, 0: any. `tail`: bytes after its number, -1: none.
    """

    base: str
    path: str = "/v1/ws"
    kind: str = "ws"
    mark: str = SUBSCRIBED
    size: int = 0
    tail: int = 2
    window: int = WINDOW

    def hello(self) -> bytes:
        lines = ["Host: localhost", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455's own; nobody here looks at the answer to it
        return "\r\n".join([f"GET {self.path} HTTP/1.1", *lines, key, "", ""]).encode()


class Receivers:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def live(self) -> Report:
        """Once all of them are."""
        return await self._read()

    async def report(self) -> Report:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self._read()

    async def heard(self, events: int, seconds: float = PATIENCE) -> Report:
        """Once they have heard so many. TimeoutError says how many came instead."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (report := await self.report()).events < events:
            if loop.time() > end:
                raise TimeoutError(f"{report.events} of {events} events came: {report}")
            await asyncio.sleep(LOOK)
        return report

    async def _read(self) -> Report:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        if not line:
            raise SystemExit("the receivers ended; what they said is above")
        return msgspec.json.decode(line, type=Report)


@contextmanager
def compiled(source: str) -> Iterator[Path]:
    """A program of ours in C, in a directory of its own. Without a compiler there is nothing to measure with."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("this needs a C compiler: on Debian and Ubuntu, apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as directory:
        program = Path(directory) / "program"
        subprocess.run([compiler, "-O2", "-D_GNU_SOURCE", "-o", program, HERE / source], check=True)
        yield program


@asynccontextmanager
async def receivers(program: Path, doors: Doors, requests: Iterable[bytes]) -> AsyncIterator[Receivers]:
    """One client for each request, which it sends as it comes in; on the way as soon as this is entered."""
    frames = list(requests)
    url = urlsplit(doors.base)
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as directory:
        hello, file = Path(directory) / "hello", Path(directory) / "requests"
        hello.write_bytes(doors.hello())
        file.write_bytes(b"".join(struct.pack("<I", len(frame)) + frame for frame in frames))
        where = [doors.kind, url.hostname, url.port, len(frames), doors.window]
        arguments = [*where, doors.size, doors.tail, doors.mark, hello, file]
        process = await asyncio.create_subprocess_exec(
            program,
            *map(str, arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield Receivers(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # then it ends, as it does when we die
            await process.wait()


def get(path: str, accept: str = "application/json") -> bytes:
    """A client's request, for `sse` and `poll`."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode()


def subscribe(channel: str, key: str | None = None, **more: Any) -> bytes:
    """A client's frame."""
    request = {"type": "subscribe", "id": 1, "channel": channel, "key": key} | more
    return text_frame(json.dumps({name: value for name, value in request.items() if value is not None}))


def text_frame(text: str) -> bytes:
    """As a client sends it, under a mask of zeros. (RFC 6455, 5.2)"""
    data = text.encode()
    size = struct.pack(">B", 0x80 | len(data)) if len(data) < 126 else struct.pack(">BH", 0x80 | 126, len(data))
    return b"\x81" + size + bytes(4) + data
