"""A client that stays where it is through a fault: the checker's observer hears all that it is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import websockets

from realtime.protocol import decode_message
from realtime.tasks import Tasks
from realtime.verify.checker import Observer, Violation
from realtime.verify.journal import Journal
from realtime.verify.outside import Outside, outside
from realtime.verify.stage import Stage

from .struck import BACK, until


class Watcher:
    """`journal` is empty: keys that no writer of a run told of may come and go, but their numbers only grow."""

    def __init__(self, stage: Stage, store: str, of: Outside) -> None:
        self.violations: list[Violation] = []
        self.journal = Journal(time.monotonic)
        channel = f"{store}/{stage.collection}"
        self.observer = Observer("client", channel, None, "all", self.journal, self.violations.append)
        self.of = of

    @property
    def resets(self) -> int:
        return self.observer.counts["reset"]

    async def shown(self) -> bool:
        return self.observer.cursor is not None

    def items(self) -> dict[str, Any]:
        return {key: msgspec.json.decode(value) for key, value in self.observer.replica.items.items()}

    async def agrees(self) -> None:
        """Has what the store has, within `BACK`; the difference is shown where that never comes."""
        with suppress(TimeoutError):
            await until(self._agrees, BACK)
        assert self.items() == await self.of.read(), self.observer.history

    async def _agrees(self) -> bool:
        return self.items() == await self.of.read()

    async def hear(self, connection: websockets.ClientConnection) -> None:
        async for frame in connection:
            self.observer.hear(decode_message(frame, "json"))


@asynccontextmanager
async def watching(stage: Stage, store: str) -> AsyncIterator[Watcher]:
    """Connected to one node and never anew."""
    [of] = [each for each in outside(stage) if each.store == store]
    watcher, tasks = Watcher(stage, store, of), Tasks()
    address = stage.nodes[-1].address.replace("http", "ws")
    await of.open()
    try:
        async with websockets.connect(f"{address}/v1/ws", max_size=None) as connection:
            watcher.observer.asked("ws")
            message = {"type": "subscribe", "id": 1, "channel": watcher.observer.channel, "mode": "all"}
            await connection.send(msgspec.json.encode(message).decode())
            tasks.start(watcher.hear(connection), "client")
            await until(watcher.shown, BACK)
            try:
                yield watcher
            finally:
                await tasks.close()
    finally:
        await of.close()
