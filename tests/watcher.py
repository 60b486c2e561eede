"""A WebSocket client that does as docs/protocol.md says; the checker of `realtime verify` hears all that it is told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
import websockets

from realtime.protocol import Mode, ServerMessage, Subscribed, decode_message
from realtime.tasks import Tasks
from realtime.verify.checker import Observer
from realtime.verify.journal import Journal
from tests.wait import until

AWAY = OSError, websockets.InvalidHandshake, websockets.InvalidMessage, TimeoutError


class Watcher:
    """Watches a channel at the address that `where` gives; comes back there whenever it is cut.

    `wrong`: promises that were broken. `closed`: the codes with which its connections ended. `reading`: while this is
    not set it takes nothing, and through a small buffer little waits on its side.
    """

    def __init__(self, where: Callable[[], str], channel: str, *, key: str | None = None, mode: Mode = "all") -> None:
        self.where = where
        self.wrong: list[str] = []
        self.closed: list[int | None] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.journal = Journal(asyncio.get_running_loop().time)
        self.observer = Observer("watcher", channel, key, mode, self.journal, lambda it: self.wrong.append(it.text))
        self.connected = ""  # the address, once it was answered there

    @property
    def items(self) -> dict[str, Any]:
        return {key: msgspec.json.decode(value) for key, value in self.observer.replica.items.items()}

    async def run(self) -> None:
        """For ever."""
        while True:
            with suppress(*AWAY):
                await self._converse(self.where())
            self.observer.broken()
            await asyncio.sleep(0.01)

    async def _converse(self, address: str) -> None:
        uri = address.replace("http", "ws") + "/v1/ws"
        narrow = await _narrow(address) if not self.reading.is_set() else None
        queue = 1 if narrow else 1000
        async with websockets.connect(
            uri, sock=narrow, max_queue=queue, max_size=None, close_timeout=0.1
        ) as connection:
            await connection.send(json.dumps(self._request()))
            await self.reading.wait()
            with suppress(websockets.ConnectionClosed):
                while True:
                    self._hear(decode_message(await connection.recv(), "json"), address)
        self.closed.append(connection.close_code)

    def _hear(self, message: ServerMessage, address: str) -> None:
        self.observer.hear(message)
        if isinstance(message, Subscribed):
            self.connected = address

    def _request(self) -> dict[str, object]:
        observer = self.observer
        observer.asked("WebSocket")
        given = {"channel": observer.channel, "key": observer.key, "cursor": observer.cursor, "mode": observer.mode}
        return {"type": "subscribe", "id": 1} | {name: value for name, value in given.items() if value is not None}


async def _narrow(address: str) -> socket.socket:
    url = urlsplit(address)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # before it connects: it bounds the window
    narrow.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(narrow, (url.hostname, url.port))
    except BaseException:
        narrow.close()
        raise
    return narrow


@asynccontextmanager
async def watching(*watchers: Watcher) -> AsyncIterator[None]:
    """Those that read have been answered, and go on until the end of the block."""
    tasks = Tasks()
    for watcher in watchers:
        tasks.start(watcher.run(), "watcher")
    try:
        await until(lambda: all(each.connected or not each.reading.is_set() for each in watchers))
        yield
    finally:
        await tasks.close()
