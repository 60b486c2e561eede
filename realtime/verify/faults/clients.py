"""A fault of clients: more than those take that read slowly. (That they come and go is what they do all the time.)"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from .base import Fault, meanwhile
from .redis import KNOWN, direct

if TYPE_CHECKING:
    from ..stage import Stage

KEYS = 10
LARGE = 100_000  # bytes of a value
PAUSE = 0.05  # seconds between two: 2 MB a second, and soon more than the kernel takes for one that does not read
LONG = 5.0  # seconds


@asynccontextmanager
async def flooded(stage: Stage, dice: Random) -> AsyncIterator[None]:
    keys = [f"f-flood-{number}" for number in range(KEYS)]
    stage.names.update(keys)
    names = [f"{stage.collection}:{key}" for key in keys]
    async with direct(stage) as redis:
        try:
            async with meanwhile(_flood(redis, names, dice), "flood"):
                yield
        finally:
            await redis.delete(*names)


async def _flood(redis: Any, names: list[str], dice: Random) -> None:
    for name in cycle(names):
        value = {"n": time.monotonic_ns(), "by": "redis-cli", "pad": dice.randbytes(LARGE // 2).hex()}
        await redis.set(name, msgspec.json.encode(value))
        await asyncio.sleep(PAUSE)


# More than a resume may answer with: who missed all of it is given the items.
MISSED = frozenset({"redis"})

FAULTS = (Fault("flood", "2 MB a second, past clients that do not read", flooded, KNOWN, hold=LONG, resets=MISSED),)
