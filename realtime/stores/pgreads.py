"""Snapshots: rows, and the fence that says which changes they show.

Rows and `pg_current_snapshot()` are read in one REPEATABLE READ transaction. The flushed end of the log is read after
the snapshot was taken: what the snapshot shows had been flushed before it became visible.
"""
# ruff: noqa: S608 - names come from the catalog and through `quote`, values are parameters

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg

from ..errors import Refused
from .base import Snapshot
from .pgtable import Stale, Table
from .pgversions import fence, lsn

if TYPE_CHECKING:
    from .pgpool import Connection


async def snapshot(
    connection: Connection, table: Table, keys: Sequence[str] | None, after: str | None, limit: int | None
) -> Snapshot:
    """The named rows that exist, in order of the primary key, at most `limit` of those after the key `after`."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        [(visible, flushed, unchanged)] = await connection.fetch(
            f"SELECT pg_current_snapshot()::text, pg_current_wal_flush_lsn()::text, {table.unchanged}"
        )
        if not unchanged:
            raise Stale(f"table {table.collection} is being altered")
        if keys is None:
            rows = await _page(connection, table, after, limit)
        else:
            rows = await _named(connection, table, [parts for key in keys if (parts := table.split(key)) is not None])
    more = limit is not None and len(rows) > limit
    items = {table.form.key(row): table.form.value(row) for row in (tuple(row) for row in rows[:limit])}
    return Snapshot(items, fence(lsn(flushed), visible), next(reversed(items), None) if more else None)


async def _page(connection: Connection, table: Table, after: str | None, limit: int | None) -> list[asyncpg.Record]:
    """One row more than `limit`, where there are more."""
    order = ", ".join(f"t.{column.sql}" for column in table.keys)
    where, parts = "", []
    if after is not None:
        parts = table.split(after) or []
        if not parts:
            raise Refused(f"{after!r} is no key of {table.collection}")
        given = ", ".join(f"${place}::text::{column.type}" for place, column in enumerate(table.keys, 1))
        where = f"WHERE ({order}) > ({given})"
    page = "" if limit is None else f"LIMIT {limit + 1}"
    return await connection.fetch(f"SELECT {table.texts} FROM {table.sql} t {where} ORDER BY {order} {page}", *parts)


async def _named(connection: Connection, table: Table, keys: list[list[str]]) -> list[asyncpg.Record]:
    """By halves where a key cannot be one of this table (`abc` for a number): it is simply not there."""
    if not keys:
        return []
    names = [f"k{place}" for place in range(len(table.key))]
    unnest = ", ".join(f"${place}::text[]" for place in range(1, len(names) + 1))
    sql = f"""
        SELECT {table.texts} FROM unnest({unnest}) AS k ({", ".join(names)})
        JOIN {table.sql} t ON {table.match([f"k.{name}" for name in names])}"""
    try:
        async with connection.transaction():
            return await connection.fetch(sql, *map(list, zip(*keys, strict=True)))
    except asyncpg.DataError:
        half = len(keys) // 2
        if not half:
            return []
    return await _named(connection, table, keys[:half]) + await _named(connection, table, keys[half:])
