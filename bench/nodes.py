"""Nodes as processes of their own, on one set of bundled servers, for measurements from outside.

All of them end when we do, whatever ends us: embedded/process.py sees to that, for nodes as for servers.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import Signals

from redis.asyncio import Redis
from tornado.httpclient import AsyncHTTPClient

from realtime import embedded
from realtime.brokers.keys import MARK
from realtime.config import VARIABLES
from realtime.embedded import Embedded
from realtime.embedded.process import Process

STORES = ("postgres", "redis", "mongo")
SETTINGS = {"REALTIME_DEMO": "1", "REALTIME_PORT": "0", "REALTIME_DRAIN": "0", "PYTHONUNBUFFERED": "1"}
SETTINGS |= {"REALTIME_LIMITS__CONNECTIONS": "100000"}  # as many as there are files


FULL = (sys.executable, "-m", "realtime", "serve")
QUIET = (sys.executable, "-m", "bench.quiet")  # without feeds
READY = 30.0  # seconds
LOOK = 0.02  # seconds between two looks


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class NodeProcess:
    """`base`: its address."""

    def __init__(self, process: Process, base: str) -> None:
        self.process, self.base = process, base

    @property
    def websocket(self) -> str:
        return self.base.replace("http", "ws") + "/v1/ws"

    @property
    def rss(self) -> int:
        """Bytes of memory that it has now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    async def metrics(self) -> dict[str, float]:
        """What it counts: by name and labels, and by name alone, the sum over all labels."""
        client = AsyncHTTPClient(force_instance=True)
        try:
            answer = await client.fetch(f"{self.base}/metrics")
        finally:
            client.close()
        counted: dict[str, float] = defaultdict(float)
        for line in answer.body.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                for each in {name, name.partition("{")[0]}:
                    counted[each] += float(value)
        return counted

    async def kill(self) -> None:
        """SIGKILL."""
        await self.process.stop(Signals.SIGKILL)


@asynccontextmanager
async def directory() -> AsyncIterator[Path]:
    """An empty one, removed afterwards."""
    data = Path(tempfile.mkdtemp(prefix="realtime-bench-"))
    try:
        yield data
    finally:
        shutil.rmtree(data, ignore_errors=True)


@asynccontextmanager
async def servers() -> AsyncIterator[Embedded]:
    """Bundled servers on an empty directory."""
    async with directory() as data:
        started = await embedded.start(data, STORES, say)
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def nodes(own: Embedded, number: int, **settings: str) -> AsyncIterator[list[NodeProcess]]:
    """That many, ready, with further settings of the environment."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(node(own, f"bench-{each}", settings)) for each in range(number)]


async def begun(own: Embedded, *stores: str) -> None:
    """Wait until the feeds of these stores have kept a mark: what is written before their first is in no log."""
    redis = Redis.from_url(own.urls["redis"])
    async with asyncio.timeout(READY):
        while None in await redis.mget([MARK + store for store in stores]):  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(LOOK)
    await redis.aclose()


@asynccontextmanager
async def node(
    own: Embedded, name: str, settings: Mapping[str, str] | None = None, program: Sequence[str] = FULL
) -> AsyncIterator[NodeProcess]:
    urls = {VARIABLES[store]: url for store, url in own.urls.items()}
    environment = SETTINGS | urls | {"REALTIME_NODE": name, "PYTHONPATH": str(Path(__file__).parent.parent)}
    async with directory() as home:
        process = Process(
            name, home, home / "log", stop=Signals.SIGTERM, death=Signals.SIGKILL,
            environment=environment | dict(settings or {}),
        )  # fmt: skip
        try:
            process.spawn(program)
            await process.ready(lambda: _asked(process))
            match = _LIVE.search(process.output())
            assert match is not None
            yield NodeProcess(process, match[1])
        finally:
            await process.close()


_LIVE = re.compile(r"live at (http://[\w.:]+)/")


async def _asked(process: Process) -> bool:
    """Whether it has said that it is live."""
    return _LIVE.search(process.output()) is not None
