"""Postgres as psql reaches it: a table of our own, made live as any table is, by `realtime track`."""
# ruff: noqa: S608 - the table's name is our own

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from ...config import Config
from ...errors import NotFound
from ...serve import track
from ...stores.pgcatalog import TRACKED
from ..stage import Stage
from .base import bounded

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

CONNECT = 3.0  # seconds
CLOSE = 3.0

# Whatever else the server says may have come in the middle of a commit.
_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError)
_DOUBTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Sql:
    store = "postgres"
    routes: tuple[str, ...] = ("psql",)
    exact = True

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._table = f'public."{stage.collection}"'

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(
            self._stage.urls[self.store], min_size=0, max_size=8, timeout=CONNECT, server_settings={"timezone": "UTC"}
        )

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def make(self) -> None:
        async with self._connection() as connection:
            await connection.execute(
                f'CREATE TABLE {self._table} (key text PRIMARY KEY, n bigint NOT NULL, "by" text, pad text)'
            )
        await track(Config(database_url=self._stage.urls[self.store], tables=()), self._stage.collection)

    async def drop(self) -> None:
        """No longer tracked before it is gone, or nodes would miss it."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(f"DELETE FROM {TRACKED} WHERE name = $1", self._stage.collection)
            await connection.execute(f"DROP TABLE IF EXISTS {self._table}")

    async def put(self, key: str, value: dict[str, Any]) -> None:
        """The whole row."""
        async with self._connection() as connection:
            await connection.execute(
                f'INSERT INTO {self._table} (key, n, "by", pad) VALUES ($1, $2, $3, $4) '
                'ON CONFLICT (key) DO UPDATE SET n = EXCLUDED.n, "by" = EXCLUDED."by", pad = EXCLUDED.pad',
                *(key, value["n"], value.get("by"), value.get("pad")),
            )

    async def delete(self, key: str) -> None:
        async with self._connection() as connection:
            done = await connection.execute(f"DELETE FROM {self._table} WHERE key = $1", key)
        if done == "DELETE 0":
            raise NotFound(f"no {key!r} in {self._table}")

    async def read(self) -> dict[str, Any]:
        async with self._connection() as connection:
            rows = await connection.fetch(f"SELECT key, to_jsonb(t)::text AS value FROM {self._table} t")
        return {row["key"]: msgspec.json.decode(row["value"]) for row in rows}

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """One that failed, or that was not waited for, is not used again."""
        async with bounded(_DOUBTS, _REFUSALS):
            connection = await self._pool.acquire()
            try:
                yield connection
            except BaseException:
                connection.terminate()
                raise
            finally:
                await self._pool.release(connection)
