"""Sample data that moves, for a first look. Written like anybody's writes, through the stores, and never to servers
that somebody else brought along."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec import Raw

from .errors import NotFound, Unavailable
from .protocol import ANYHOW
from .stores.base import Store
from .tasks import Tasks

PERIOD = 1.0  # seconds between two rounds of writes

CATALOG = {"espresso": 2.2, "flat-white": 3.6, "filter": 2.9, "cortado": 2.8}


class Demo:
    def __init__(self, stores: Sequence[Store]) -> None:
        writers: dict[str, Callable[[Store], Awaitable[None]]] = {
            "redis": self._sensors,
            "mongo": self._catalog,
            "postgres": self._entries,
        }
        self._writers = [(store, writers[store.name]) for store in stores if store.name in writers]
        self._random = random.Random(42)  # noqa: S311
        self._stock = dict.fromkeys(CATALOG, 40)
        self._rounds = 0
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.every(PERIOD, self._round, "demo")

    async def close(self) -> None:
        await self._tasks.close()

    async def _round(self) -> None:
        for store, write in self._writers:
            try:
                await write(store)
            except Unavailable:
                continue  # its state is on the page; the next round tries again

    async def _sensors(self, store: Store) -> None:
        now = time.time()
        for number in range(1, 6):
            wave = 20 + number + 3 * math.sin(now / (7 + number)) + self._random.gauss(0, 0.2)
            await store.put("sensors", str(number), _json({"temp": round(wave, 1), "unit": "C"}), ANYHOW)

    async def _catalog(self, store: Store) -> None:
        name = self._random.choice(list(CATALOG))
        self._stock[name] = self._stock[name] - 1 if self._stock[name] > 0 else 40
        item = {"name": name, "price": CATALOG[name], "stock": self._stock[name]}
        await store.put("catalog", name, _json(item), ANYHOW)

    async def _entries(self, store: Store) -> None:
        self._rounds += 1
        text = {"markdown": f"Changed {self._rounds} times since the service started."}
        try:
            await store.patch("entries", "1", _json(text), ANYHOW)
        except NotFound:
            await store.put("entries", "1", _json({"slug": "hello", "title": "Hello, live rows"} | text), ANYHOW)


def _json(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))
