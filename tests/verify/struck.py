"""What the tests of the faults share: a stage with writers, and a look at whether all is well behind a fault."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random

import websockets
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from realtime.verify.faults import FAULTS
from realtime.verify.outside import outside
from realtime.verify.stage import NodeProcess, Stage, open_stage

STORES = ("postgres", "mongo", "redis")
BACK = 30.0  # seconds until all must be well again

_numbers = count(1)


@asynccontextmanager
async def staged(nodes: int) -> AsyncIterator[Stage]:
    """With the collection in each store."""
    data = Path(tempfile.mkdtemp(prefix="realtime-"))
    try:
        async with open_stage(data, nodes) as stage, AsyncExitStack() as stack:
            for each in outside(stage):
                await each.open()
                stack.push_async_callback(each.close)
                await each.make()
            await stage.ready()
            yield stage
    finally:
        shutil.rmtree(data)


@asynccontextmanager
async def struck(name: str, stage: Stage, seed: int = 1) -> AsyncIterator[None]:
    """The fault while it is on; afterwards all must be well."""
    async with FAULTS[name].strike(stage, Random(seed)):
        yield
    await well(stage)


@asynccontextmanager
async def written(stage: Stage) -> AsyncIterator[None]:
    """By some who write on and on, through any node, whatever comes of it."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as writers:
        for store in STORES:
            for key in ("w1", "w2"):
                writers.create_task(_write(stage, f"{store}/{stage.collection}", key, over))
        try:
            yield
        finally:
            over.set()


async def _write(stage: Stage, channel: str, key: str, over: asyncio.Event) -> None:
    dice = Random(key)
    while not over.is_set():
        if nodes := [node for node in stage.nodes if node.up]:
            await put(dice.choice(nodes), channel, key, next(_numbers))
        await asyncio.sleep(0.01)


async def put(node: NodeProcess, channel: str, key: str, n: int, seconds: float = 5) -> bool:
    """Whether it was taken."""
    url, body = f"{node.address}/v1/{channel}/{key}", json.dumps({"n": n, "by": "rest"})
    try:
        await AsyncHTTPClient().fetch(url, method="PUT", body=body, request_timeout=seconds)
    except (HTTPClientError, OSError):
        return False
    return True


async def answers(node: NodeProcess, path: str = "/healthz", seconds: float = 0.5) -> bool:
    try:
        await AsyncHTTPClient().fetch(f"{node.address}{path}", request_timeout=seconds)
    except (HTTPClientError, OSError):
        return False
    return True


async def well(stage: Stage) -> None:
    """All nodes are up and ready, and what is written through one is heard at another."""
    assert all(node.up for node in stage.nodes)
    await stage.ready()
    for store in STORES:
        heard: list[str] = []
        try:
            async with asyncio.timeout(BACK):
                await _reaches(stage.nodes[0], stage.nodes[-1], f"{store}/{stage.collection}", heard)
        except TimeoutError:
            raise TimeoutError(f"a write to {store} is not heard, but {heard}") from None


async def _reaches(near: NodeProcess, far: NodeProcess, channel: str, heard: list[str]) -> None:
    async with websockets.connect(far.address.replace("http", "ws") + "/v1/ws") as connection:
        await connection.send(json.dumps({"type": "subscribe", "id": 1, "channel": channel, "key": "well"}))
        while '"type":"subscribed"' not in (heard or [""])[-1]:
            heard.append(str(await connection.recv()))
        n = next(_numbers)
        while not await put(near, channel, "well", n):
            heard.append(f"{n} was not taken")
        while f'"n":{n},' not in heard[-1]:
            heard.append(str(await connection.recv()))


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)
