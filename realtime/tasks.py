"""Background tasks with an owner, a name and a loud death.

Whoever owns a `Tasks` closes it; closing is cancelling, and the only way a loop ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from random import uniform
from typing import Any, TypeVar

log = logging.getLogger("realtime.tasks")

T = TypeVar("T")


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Nobody needs to await it: it logs what ended it, if that was not cancellation."""
        task = asyncio.create_task(_loud(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Cancelled before its first step, the work would never have been awaited.
        task.add_done_callback(lambda _: work.close())
        return task

    def every(self, period: float, step: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Take a step, wait about `period` seconds, for ever; a step that fails is logged, and the next one taken."""
        return self.start(_repeat(period, step, name), name)

    async def close(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def together(work: Mapping[str, Coroutine[None, None, None]]) -> None:
    """Run them side by side, by name; when one fails, end the others first, and raise its error as it is."""
    tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None where it was to `stop` first: then it was cancelled, and has ended."""
    tasks = working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait(tasks)
    return None if working.cancelled() else working.result()


def delays(first: float = 0.1, longest: float = 1.0) -> Iterator[float]:
    """Seconds between tries: doubling, with jitter, so that nodes that lost the same thing do not come back at once.

    Not for longer than a second: whoever waits for a server is to be there soon after it (docs/guarantees.md), and a
    try a second is nothing to a server, however long it was away.
    """
    limit = first
    while True:
        yield uniform(limit / 2, limit)  # noqa: S311
        limit = min(limit * 2, longest)


async def _loud(work: Coroutine[None, None, None], name: str) -> None:
    try:
        await work
    except Exception:
        log.exception("%s died", name)


async def _repeat(period: float, step: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        try:
            await step()
        except Exception:
            log.exception("%s failed", name)
        await asyncio.sleep(uniform(period * 0.8, period))  # noqa: S311
