"""Snapshots that many ask for at once, read once.

Whoever joins reads the channel's position first, and asks then. So a snapshot serves all who asked before its reading
began: it is not behind the position of any of them, and what it is ahead by, its fence says. One whose reading has
begun may lack an event that the position of who asks now has passed, and that nobody would tell them: theirs is the
next one. So of one selection at most one snapshot is being read and one is awaited, however many ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from .stores.base import Snapshot

Selection = tuple[str, str | None]  # channel, key (None: all)


class Reading:
    """One that is awaited, or being read. `wanted`: by how many; what nobody wants any more is given up."""

    __slots__ = ("begun", "task", "wanted")

    def __init__(self, run: Callable[[Reading], Coroutine[None, None, Snapshot]], name: str) -> None:
        self.begun, self.wanted = False, 0
        self.task = asyncio.create_task(run(self), name=name)


class Snapshots:
    """`read` reads one."""

    def __init__(self, read: Callable[[str, str | None], Awaitable[Snapshot]]) -> None:
        self._read = read
        self._newest: dict[Selection, Reading] = {}

    async def read(self, channel: str, key: str | None) -> Snapshot:
        """One whose reading begins after this was called. Raises what reading it raises."""
        selection = channel, key
        reading = self._newest.get(selection)
        if reading is None or reading.begun:
            run = partial(self._run, selection, before=reading)
            reading = self._newest[selection] = Reading(run, f"snapshot {channel}")
        reading.wanted += 1
        try:
            return await asyncio.shield(reading.task)
        finally:
            reading.wanted -= 1
            if not reading.wanted:
                reading.task.cancel()
                self._forget(selection, reading)

    async def _run(self, selection: Selection, reading: Reading, *, before: Reading | None) -> Snapshot:
        if before is not None:
            await asyncio.wait([before.task])
        reading.begun = True
        try:
            return await self._read(*selection)
        finally:
            self._forget(selection, reading)

    def _forget(self, selection: Selection, reading: Reading) -> None:
        if self._newest.get(selection) is reading:
            del self._newest[selection]
