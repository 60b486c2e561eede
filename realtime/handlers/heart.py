"""One heart for all WebSockets of a node: each is beaten every `HEARTBEAT` seconds, a few at a time."""

from __future__ import annotations

from itertools import cycle
from typing import Protocol

from ..tasks import Tasks

HEARTBEAT = 25  # seconds between two signs of life on a WebSocket


class Beaten(Protocol):
    def beat(self) -> None:
        """A sign of life is due. Raises nothing."""


class Heart:
    def __init__(self) -> None:
        self._groups: list[set[Beaten]] = [set() for _ in range(HEARTBEAT)]
        self._entrance, self._next = cycle(self._groups), cycle(self._groups)
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.every(1.0, self._beat, "heart")

    async def close(self) -> None:
        await self._tasks.close()

    def add(self, beaten: Beaten) -> None:
        next(self._entrance).add(beaten)

    def remove(self, beaten: Beaten) -> None:
        for group in self._groups:
            group.discard(beaten)

    async def _beat(self) -> None:
        for beaten in list(next(self._next)):
            beaten.beat()
