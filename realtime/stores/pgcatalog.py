"""Which tables are collections: those of the configuration and those of `_realtime.tracked`, as the catalog has them.

A table's shape is kept until a statement shows that it has changed. A table that does not exist yet, or has no primary
key, is looked for again each time, so that creating it is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from ..errors import Refused, UnknownChannel
from .pgtable import OURS, Stale, Table, load_tables, normal

if TYPE_CHECKING:
    from .pgpool import Connection

log = logging.getLogger("realtime.stores.postgres")

# Not in a schema `realtime`: into that one, if it exists, a role of that name creates its own tables ("$user").
TRACKED: Final = "_realtime.tracked"
LOCK: Final = 7_237_953_118  # the advisory lock under which nodes make tables and alter publications

_T = TypeVar("_T")

_STALE: Final = (Stale, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedObjectError)
_SAMPLE: Final = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
_TRACKED: Final = (
    "CREATE SCHEMA IF NOT EXISTS _realtime; CREATE TABLE IF NOT EXISTS _realtime.tracked (name text PRIMARY KEY)"
)
_KEYLESS: Final = "ALTER TABLE … ADD PRIMARY KEY, or take the table out of the configuration"


class Catalog:
    def __init__(self, store: str, configured: Iterable[str]) -> None:
        self._store = store
        self._configured = frozenset(map(normal, configured))
        self._tables: dict[str, Table] = {}
        self._tracking: bool | None = None  # whether `_realtime.tracked` is there; None: not looked yet

    async def table(self, connection: Connection, collection: str) -> Table:
        """The collection's table. Raises UnknownChannel, which says why a table that exists cannot be one."""
        if (known := self._tables.get(collection)) is not None:
            return known
        if collection not in await self._wanted(connection):
            raise UnknownChannel(f"{self._store} has no collection {collection!r}")
        table = (await load_tables(connection, [collection])).get(collection)
        if table is None:
            raise UnknownChannel(f"{self._store} has no table {collection!r} yet")
        if table.trouble:
            raise UnknownChannel(table.trouble, hint=_KEYLESS)
        self._tables[collection] = table
        return table

    async def load(self, connection: Connection) -> tuple[dict[str, Table], list[str]]:
        """All that can be shown, read afresh, by collection; and what is wrong with the others."""
        wanted = await self._wanted(connection)
        found = await load_tables(connection, sorted(wanted))
        self._tables = {name: table for name, table in found.items() if not table.trouble}
        troubles = [table.trouble for table in found.values() if table.trouble]
        return dict(self._tables), troubles + [f"table {name} does not exist" for name in sorted(wanted - found.keys())]

    async def use(self, connection: Connection, collection: str, work: Callable[[Table], Awaitable[_T]]) -> _T:
        """Do something with a table; once more with its new shape, where the one that we knew would not do."""
        try:
            return await work(await self.table(connection, collection))
        except _STALE:
            self._tables.pop(collection, None)
        return await work(await self.table(connection, collection))

    async def track(self, connection: Connection, name: str) -> None:
        """Make a table a collection of every node on this database. Raises Refused."""
        try:
            collection = normal(name)
        except ValueError as error:
            raise Refused(str(error)) from None
        await self._prepare(connection)
        table = (await load_tables(connection, [collection])).get(collection)
        if table is None or table.trouble:
            raise Refused(
                table.trouble if table else f"table {name!r} does not exist", hint=_KEYLESS if table else None
            )
        await connection.execute("INSERT INTO _realtime.tracked VALUES ($1) ON CONFLICT DO NOTHING", collection)

    async def _wanted(self, connection: Connection) -> frozenset[str]:
        await self._prepare(connection)
        if not self._tracking:
            return self._configured
        return self._configured.union(
            row["name"]
            for row in await connection.fetch("SELECT name FROM _realtime.tracked")
            if not row["name"].startswith(OURS)  # whoever wrote that
        )

    async def _prepare(self, connection: Connection) -> None:
        """Make the tables that are ours if they are missing; two nodes may start at once."""
        if self._tracking is not None:
            return
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
                if "entries" in self._configured and not await _exists(connection, "public.entries"):
                    await connection.execute(_SAMPLE)
                if not await _exists(connection, TRACKED):
                    await connection.execute(_TRACKED)
        except asyncpg.InsufficientPrivilegeError as error:
            log.warning("%s: `realtime track` is off, and no sample table is made: %s", self._store, error)
        self._tracking = await _exists(connection, TRACKED)


async def _exists(connection: Connection, table: str) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table))
