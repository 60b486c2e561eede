"""Postgres: tables with a primary key, as they are; rows as JSON by column.

asyncpg reads and writes; the changes come from the write-ahead log by streamed logical replication (`pgchanges`), so a
row that psql changed is as live as one of ours, and the tables get no trigger and no column. The other `pg*` files
are this store's parts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Raw

from ..errors import ConfigError, StoreDown
from ..protocol import Condition
from . import pgchanges, pgreads, pgversions, pgwrites
from .base import Batch, Lost, Snapshot, Written
from .pgcatalog import Catalog
from .pgpool import Pool
from .pgtable import Table

if TYPE_CHECKING:
    from .pgpool import Connection

_T = TypeVar("_T")

_PING: Final = 2.0  # seconds
_SLOT: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


class PostgresStore:
    """`tables`: `name` or `schema.name`. `slot` names the replication slot and the publication, both made by us; stores
    of several nodes that share a slot are one feed, and a slot belongs to one database. Raises ConfigError."""

    read_only = False

    def __init__(
        self, url: str, tables: Sequence[str] = ("entries",), *, name: str = "postgres", slot: str = "realtime"
    ) -> None:
        if not _SLOT.fullmatch(slot):
            raise ConfigError(f"{name}: not a replication slot's name: {slot!r}")
        self.name = name
        self._url, self._slot = url, slot
        self._pool = Pool(url, name)
        try:
            self._catalog = Catalog(name, tables)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        try:
            async with asyncio.timeout(_PING), self._pool.connection() as connection:
                tables, _ = await self._catalog.load(connection)
        except TimeoutError:
            raise StoreDown(f"{self.name} did not answer in {_PING:g} s") from None
        return {name: table.facts() for name, table in tables.items()}

    async def track(self, table: str) -> None:
        """Make a table a collection of every node on this database, now and after restarts. Raises Refused."""
        async with self._pool.connection() as connection:
            await self._catalog.track(connection, table)

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        return await self._run(
            collection, lambda connection, table: pgreads.snapshot(connection, table, keys, after, limit)
        )

    async def put(self, collection: str, key: str | None, value: Raw, condition: Condition) -> Written:
        if key is None:
            return await self._run(collection, lambda connection, table: pgwrites.post(connection, table, value))
        return await self._run(
            collection, lambda connection, table: pgwrites.put(connection, table, key, value, condition)
        )

    async def patch(self, collection: str, key: str, value: Raw, condition: Condition) -> Written:
        return await self._run(
            collection, lambda connection, table: pgwrites.patch(connection, table, key, value, condition)
        )

    async def delete(self, collection: str, key: str, condition: Condition) -> Written:
        return await self._run(collection, lambda connection, table: pgwrites.delete(connection, table, key, condition))

    def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        return pgchanges.changes(self.name, self._url, self._slot, self._pool, self._catalog, mark)

    def contains(self, fence: str, version: str) -> bool:
        return pgversions.contains(fence, version)

    async def _run(self, collection: str, work: Callable[[Connection, Table], Awaitable[_T]]) -> _T:
        async with self._pool.connection() as connection:
            return await self._catalog.use(connection, collection, lambda table: work(connection, table))
