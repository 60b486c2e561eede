"""What many ask for at once, read once.

Whoever joins knows the channel's position first, and asks then. So a reading serves all who asked before it began: it
is not behind the position of any of them, and what it is ahead by, its fence or its offsets say. One that has begun may
lack an event that the position of who asks now has passed, and which nobody would tell them: theirs is the next one. So
of one thing at most one reading is under way and one is awaited, however many ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
A = TypeVar("A")
T = TypeVar("T")


class Reading(Generic[A, T]):
    """One that is awaited, or under way. `asks`: what it was asked for with; what nobody wants any more is given up."""

    __slots__ = ("asks", "begun", "task", "wanted")

    def __init__(self, run: Callable[[Reading[A, T]], Coroutine[Any, Any, T]], name: str) -> None:
        self.begun, self.wanted = False, 0
        self.asks: list[A] = []
        self.task = asyncio.create_task(run(self), name=name)


class Shared(Generic[K, A, T]):
    """`read` reads a thing once, for all of these asks."""

    def __init__(self, read: Callable[[K, Sequence[A]], Awaitable[T]]) -> None:
        self._read = read
        self._newest: dict[K, Reading[A, T]] = {}

    async def read(self, thing: K, ask: A) -> T:
        """What is read after this was called. Raises what reading it raises."""
        reading = self._newest.get(thing)
        if reading is None or reading.begun:
            run = partial(self._run, thing, before=reading)
            reading = self._newest[thing] = Reading(run, f"reading {thing}")
        reading.asks.append(ask)
        reading.wanted += 1
        try:
            return await asyncio.shield(reading.task)
        finally:
            reading.wanted -= 1
            if not reading.wanted:
                reading.task.cancel()
                self._forget(thing, reading)

    async def _run(self, thing: K, reading: Reading[A, T], *, before: Reading[A, T] | None) -> T:
        if before is not None:
            await asyncio.wait([before.task])
        reading.begun = True
        try:
            return await self._read(thing, reading.asks)
        finally:
            self._forget(thing, reading)

    def _forget(self, thing: K, reading: Reading[A, T]) -> None:
        if self._newest.get(thing) is reading:
            del self._newest[thing]
