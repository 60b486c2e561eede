"""The store contract in memory: what the other stores mean, without a server. For tests and for trying things out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import islice
from secrets import token_hex

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..errors import NotFound
from ..protocol import Change, Condition, Op, merge_patch
from .base import Batch, Lost, Snapshot, Written

RETENTION = 10_000  # changes that can still be told


class MemoryStore:
    read_only = False

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self._collections: dict[str, dict[str, Raw]] = {}
        self._log: list[Change] = []
        self._count = 0
        self._first = 0  # the place of the oldest change that is still in the log
        self._written = asyncio.Condition()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        return {name: {"items": len(items)} for name, items in self._collections.items()}

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        items = self._collections.get(collection, {})
        wanted = [key for key in (sorted(items) if keys is None else keys) if key in items and key > (after or "")]
        page = list(islice(wanted, limit))
        more = page[-1] if page and len(page) < len(wanted) else None
        return Snapshot({key: items[key] for key in page}, self._version(), more)

    async def put(self, collection: str, key: str | None, value: Raw, condition: Condition) -> Written:
        key = key or token_hex(8)
        return await self._write(collection, key, "put", value, condition)

    async def patch(self, collection: str, key: str, value: Raw, condition: Condition) -> Written:
        current = self._current(collection, key, condition)
        merged = merge_patch(msgspec.json.decode(current), msgspec.json.decode(value))
        return await self._write(collection, key, "put", Raw(msgspec.json.encode(merged)), condition)

    async def delete(self, collection: str, key: str, condition: Condition) -> Written:
        self._current(collection, key, condition)
        return await self._write(collection, key, "delete", UNSET, condition)

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        if mark is None or not self._first <= int(mark) <= self._count:
            mark = str(self._count)
            yield Lost("first start" if self._count == int(mark) else "history gone", mark)
        place = int(mark)
        while True:
            async with self._written:
                while self._count <= place:
                    await self._written.wait()
            if place < self._first:
                place = self._count
                yield Lost("history gone", str(place))
                continue
            batch = self._log[place - self._first :]
            place += len(batch)
            yield Batch(batch, str(place))

    def contains(self, fence: str, version: str) -> bool:
        return version <= fence

    def _version(self) -> str:
        return f"{self._count:016x}"

    def _current(self, collection: str, key: str, condition: Condition) -> Raw:
        current = self._collections.get(collection, {}).get(key)
        condition.check(key, None if current is None else bytes(current))
        if current is None:
            raise NotFound(f"no key {key!r} in {self.name}/{collection}")
        return current

    async def _write(self, collection: str, key: str, op: Op, value: Raw | UnsetType, condition: Condition) -> Written:
        items = self._collections.setdefault(collection, {})
        current = items.get(key)
        condition.check(key, None if current is None else bytes(current))
        if isinstance(value, Raw):
            items[key] = value
        else:
            del items[key]
        self._count += 1
        self._log.append(Change(collection, key, op, value, self._version(), time.time()))
        if len(self._log) > RETENTION:
            del self._log[0]
            self._first += 1
        async with self._written:
            self._written.notify_all()
        return Written(key, self._version(), value if isinstance(value, Raw) else None)
