"""Whoever has left is forgotten at once: no circle of references waits for the garbage collector, which would have to
look through tens of thousands of sessions to find it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Iterator

import pytest
import websockets
from tornado.httpclient import AsyncHTTPClient

from realtime.session import Session
from tests.wait import until

Visit = Callable[[str], Awaitable[None]]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def sessions() -> int:
    return sum(type(each) is Session for each in gc.get_objects())


async def websocket(base: str) -> None:
    async with websockets.connect(f"{base.replace('http', 'ws')}/v1/ws", compression=None) as connection:
        for id_, channel in enumerate(["memory/things", "memory/no such"]):
            await connection.send(json.dumps({"type": "subscribe", "id": id_, "channel": channel}))
        while '"subscribed"' not in await connection.recv():
            pass


async def stream(base: str) -> None:
    port = int(base.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v1/memory/things?stream=ndjson HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b'"subscribed"')
    writer.close()
    await writer.wait_closed()


async def poll(base: str) -> None:
    await AsyncHTTPClient().fetch(f"{base}/v1/memory/things?wait=1")


@pytest.mark.usefixtures("no_collector", "service")
@pytest.mark.parametrize("visit", [websocket, stream, poll])
@pytest.mark.gen_test
async def test_who_has_left_is_forgotten(base_url: str, visit: Visit) -> None:
    before = sessions()
    for _ in range(3):
        await visit(base_url)
    await until(lambda: sessions() == before)
