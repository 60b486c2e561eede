"""Nodes as processes of their own, on one set of bundled servers, for measurements from outside."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from realtime import embedded
from realtime.embedded import Embedded


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def servers() -> AsyncIterator[Embedded]:
    """Bundled servers on an empty directory that is removed afterwards."""
    data = Path(tempfile.mkdtemp(prefix="realtime-bench-"))
    try:
        started = await embedded.start(data, ("postgres", "redis", "mongo"), say)
        try:
            yield started
        finally:
            await started.close()
    finally:
        shutil.rmtree(data, ignore_errors=True)


@asynccontextmanager
async def nodes(own: Embedded, number: int) -> AsyncIterator[list[str]]:
    """Addresses of that many nodes, ready."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_node(own, f"bench-{each}")) for each in range(number)]


@asynccontextmanager
async def _node(own: Embedded, name: str) -> AsyncIterator[str]:
    variables = {
        "DATABASE_URL": own.urls["postgres"],
        "REDIS_URL": own.urls["redis"],
        "MONGODB_URI": own.urls["mongo"],
        "REALTIME_NODE": name,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "realtime", "serve", "--port", "0", "--demo"),
        env=os.environ | variables,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        said = ""
        while (match := re.search(r"live at (http://\S+?)/?\s", said)) is None:
            line = await process.stderr.readline()
            if not line:
                raise SystemExit(f"the node {name} did not start:\n{said}")
            said += line.decode()
        reading = asyncio.create_task(process.stderr.read(), name=f"log of {name}")
        yield match[1]
        reading.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
