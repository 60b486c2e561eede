"""The publication: which tables' changes the slot carries. Made and kept up by the feed's holder.

Tables are named one by one, never FOR ALL TABLES: a table without a primary key in a publication makes its owner's
own UPDATEs fail. A table joins while nobody writes to it, for what an open transaction wrote before would be missing
from the stream and from every snapshot taken until it commits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import asyncpg

from .pgcatalog import LOCK, TRACKED, Catalog
from .pgtable import Table, load_tables, quote

if TYPE_CHECKING:
    from .pgpool import Connection

log = logging.getLogger("realtime.stores.postgres")

_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '1s'"  # writers queue behind our lock, too

_LIST: Final = """
SELECT r.prrelid AS oid, r.prrelid::regclass::text AS sql
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1
"""


class Publication:
    def __init__(self, name: str, store: str, catalog: Catalog) -> None:
        self._name, self._store, self._catalog = name, store, catalog
        self._said: set[str] = set()

    async def ensure(self, connection: Connection) -> bool:
        """Whether it had to be made: then no slot has ever carried it."""
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            if await connection.fetchval("SELECT true FROM pg_publication WHERE pubname = $1", self._name):
                return False
            version: int = await connection.fetchval("SELECT current_setting('server_version_num')::int")
            generated = ", publish_generated_columns = stored" if version >= 180000 else ""
            await connection.execute(
                f"CREATE PUBLICATION {quote(self._name)} WITH (publish_via_partition_root = true{generated})"
            )
            return True

    async def update(self, connection: Connection) -> dict[int, Table]:
        """Make it match what should be shown. Returns the tables that are in it now, by oid."""
        tables, troubles = await self._catalog.load(connection)
        wanted = {table.oid: table for table in (tables | await load_tables(connection, [TRACKED])).values()}
        there = {row["oid"]: row["sql"] for row in await connection.fetch(_LIST, self._name)}
        for oid in there.keys() - wanted.keys():
            await self._alter(connection, f"DROP TABLE ONLY {there[oid]}")
        for oid in wanted.keys() - there.keys():
            table = wanted[oid]
            error = await self._alter(connection, f"ADD TABLE ONLY {table.sql}", lock=table.sql)
            if error is not None:
                troubles.append(f"table {table.collection} is not live: {error}")
                del wanted[oid]
        self._say(set(troubles))
        return wanted

    async def _alter(
        self, connection: Connection, change: str, *, lock: str | None = None
    ) -> asyncpg.PostgresError | None:
        """Returns what stood against it; it is tried again with the next update, and the other tables go on."""
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
                if lock:
                    await connection.execute(_LOCK_TIMEOUT)
                    await connection.execute(f"LOCK TABLE {lock} IN SHARE ROW EXCLUSIVE MODE")
                await connection.execute(f"ALTER PUBLICATION {quote(self._name)} {change}")
        except asyncpg.PostgresError as error:
            return error
        return None

    def _say(self, troubles: set[str]) -> None:
        for trouble in troubles - self._said:
            log.warning("%s: %s", self._store, trouble)
        self._said = troubles
