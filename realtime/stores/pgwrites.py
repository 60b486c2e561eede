"""Writes of rows, each one transaction; Postgres itself turns JSON into the columns' types.

A write's version is the log's end (`pg_current_wal_insert_lsn()`) just after the row was written, while it is locked:
the commit record comes later, and whoever wrote the row earlier had committed before.
"""
# ruff: noqa: S608 - names come from the catalog and through `quote`, values are parameters

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec
from msgspec import Raw

from ..errors import NotFound, Refused
from ..protocol import Condition, merge_patch
from .base import Written
from .pgtable import Column, Stale, Table
from .pgtypes import converter
from .pgversions import lsn, version_of_write

if TYPE_CHECKING:
    from .pgpool import Connection

_TRIES: Final = 100  # for a key from a sequence that others have passed by: each try moves the sequence on

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_exact = msgspec.json.Decoder(float_hook=Decimal).decode  # `1.10` keeps its digits
_encode = msgspec.json.Encoder(decimal_format="number").encode


async def put(connection: Connection, table: Table, key: str, value: Raw, condition: Condition) -> Written:
    """The whole row: columns that `value` does not name get their defaults."""
    parts = _parts(table, key)
    members = _without_key(table, parts, _named(table, value))
    sql = _upsert(table, members, replace=condition.exists is not False)
    body = _encode(members).decode()
    if not condition:
        return _written(table, await connection.fetchrow(sql, body, *parts))
    try:
        async with connection.transaction(isolation="read_committed"):
            condition.check(key, await _current(connection, table, parts))
            return _written(table, await connection.fetchrow(sql, body, *parts))
    except asyncpg.UniqueViolationError:  # of the key itself, where somebody else was quicker?
        condition.check(key, await _current(connection, table, parts))
        raise


async def post(connection: Connection, table: Table, value: Raw) -> Written:
    """A new row, whose key is in `value` or made by the table."""
    members = _named(table, value)
    sql, arguments = _insert(table, members), [_encode(members).decode()] if members else []
    own_key = all(column.name in members for column in table.keys)
    for left in reversed(range(1 if own_key else _TRIES)):
        try:
            return _written(table, await connection.fetchrow(sql, *arguments))
        except asyncpg.UniqueViolationError as error:
            if not left or error.constraint_name != table.key_name:
                raise
    raise AssertionError("unreachable")


async def patch(connection: Connection, table: Table, key: str, value: Raw, condition: Condition) -> Written:
    """The named columns only; objects in `json` and `jsonb` columns are merged, too."""
    members = _named(table, value)
    async with connection.transaction(isolation="read_committed"):
        parts, current = await _existing(connection, table, key, condition)
        merged = _merged(table, _members(current), _without_key(table, parts, members))
        return _written(table, await connection.fetchrow(_update(table, merged), _encode(merged).decode(), *parts))


async def delete(connection: Connection, table: Table, key: str, condition: Condition) -> Written:
    async with connection.transaction(isolation="read_committed"):
        parts, _ = await _existing(connection, table, key, condition)
        place = await connection.fetchval(
            f"DELETE FROM {table.sql} t WHERE {table.match(_given(table))} RETURNING pg_current_wal_insert_lsn()::text",
            *parts,
        )
    if place is None:
        raise Refused(f"{key!r} was not deleted: a trigger of the table kept it")
    return Written(key, version_of_write(lsn(place)))


# what is there ------------------------------------------------------------------------------------------------------


async def _existing(connection: Connection, table: Table, key: str, condition: Condition) -> tuple[list[str], Raw]:
    """The key's parts and the row's JSON, locked. Raises Conflict, NotFound."""
    parts = table.split(key)
    try:
        current = await _current(connection, table, parts) if parts else None
    except asyncpg.DataError:  # `abc` for a number
        current = None
    condition.check(key, current)
    if parts is None or current is None:
        raise NotFound(f"{table.collection} has no {key!r}")
    return parts, current


async def _current(connection: Connection, table: Table, parts: list[str]) -> Raw | None:
    row = await connection.fetchrow(
        f"SELECT {table.texts}, {table.unchanged} FROM {table.sql} t WHERE {table.match(_given(table))} FOR UPDATE",
        *parts,
    )
    if row is None:
        return None
    *texts, unchanged = row
    if not unchanged:
        raise Stale(f"table {table.collection} is being altered")
    return table.form.value(texts)


def _written(table: Table, row: asyncpg.Record | None) -> Written:
    if row is None:
        raise Stale(
            f"nothing was written to {table.collection}",
            hint="either Postgres writes this key in another form, or a trigger of the table dropped the row",
        )
    *texts, place = row
    return Written(table.form.key(texts), version_of_write(lsn(place)), table.form.value(texts))


# what is to be written ----------------------------------------------------------------------------------------------


def _parts(table: Table, key: str) -> list[str]:
    parts = table.split(key)
    if parts is None:
        names = ",".join(column.name for column in table.keys)
        raise Refused(f"{key!r} is no key of {table.collection}", hint=f"a key is {names}")
    return parts


def _named(table: Table, value: Raw) -> dict[str, Raw]:
    """The value's members, all of which are columns."""
    try:
        members = _members(value)
    except msgspec.ValidationError:
        raise Refused("a row is a JSON object, its members are the columns") from None
    columns = [column.name for column in table.columns]
    if unknown := [name for name in members if name not in columns]:
        raise Stale(f"{table.collection} has no column {', '.join(unknown)}", hint=f"its columns: {', '.join(columns)}")
    return members


def _without_key(table: Table, parts: list[str], members: Mapping[str, Raw]) -> dict[str, Raw]:
    """What to write beside the key, which may be in the value if it is the same."""
    for column, part in zip(table.keys, parts, strict=True):
        given = members.get(column.name)
        if given is not None and bytes(given) not in (converter(column.oid, table.types)(part), _encode(part)):
            raise Refused(f"{column.name} is {bytes(given)[:80].decode()} in the value but {part!r} in the key")
    keys = {column.name for column in table.keys}
    return {name: value for name, value in members.items() if name not in keys}


def _merged(table: Table, current: Mapping[str, Raw], members: Mapping[str, Raw]) -> dict[str, Raw]:
    documents = {column.name for column in table.columns if table.is_json(column)}
    return {
        name: Raw(_encode(merge_patch(_exact(current[name]), _exact(value)))) if name in documents else value
        for name, value in members.items()
    }


# statements: $1 is the JSON, $2 and on the key's parts ---------------------------------------------------------------


def _given(table: Table, first: int = 1) -> list[str]:
    return [f"${first + place}::text" for place in range(len(table.key))]


def _columns(table: Table, members: Mapping[str, Raw]) -> list[Column]:
    return [column for column in table.columns if column.name in members]


def _returning(table: Table) -> str:
    return f"RETURNING {table.texts}, pg_current_wal_insert_lsn()::text"


def _record(table: Table) -> str:
    return f"json_populate_record(NULL::{table.sql}, $1::json) AS r"


def _upsert(table: Table, members: Mapping[str, Raw], *, replace: bool) -> str:
    keys, columns, given = table.keys, _columns(table, members), _given(table, 2)
    casts = [f"{text}::{column.type}" for text, column in zip(given, keys, strict=True)]
    own_form = " AND ".join(f"format('%s', {cast}) = {text}" for cast, text in zip(casts, given, strict=True))
    names = ", ".join(column.sql for column in [*keys, *columns])
    values = ", ".join([*casts, *(f"r.{column.sql}" for column in columns)])
    return f"""
        INSERT INTO {table.sql} AS t ({names}) OVERRIDING SYSTEM VALUE
        SELECT {values} FROM {_record(table)} WHERE {own_form} AND {table.unchanged}
        {_replacing(table, columns) if replace else ""} {_returning(table)}"""


def _replacing(table: Table, columns: list[Column]) -> str:
    keys = table.keys
    rest = [column for column in table.columns if column not in keys and column not in columns and column.settable]
    changes = [f"{column.sql} = EXCLUDED.{column.sql}" for column in columns or (keys if not rest else [])]
    changes += [f"{column.sql} = DEFAULT" for column in rest]
    return f"ON CONFLICT ({', '.join(column.sql for column in keys)}) DO UPDATE SET {', '.join(changes)}"


def _insert(table: Table, members: Mapping[str, Raw]) -> str:
    columns = _columns(table, members)
    if not columns:
        return f"INSERT INTO {table.sql} AS t DEFAULT VALUES {_returning(table)}"
    names = ", ".join(column.sql for column in columns)
    values = ", ".join(f"r.{column.sql}" for column in columns)
    return f"""
        INSERT INTO {table.sql} AS t ({names})
        SELECT {values} FROM {_record(table)} WHERE {table.unchanged} {_returning(table)}"""


def _update(table: Table, members: Mapping[str, Raw]) -> str:
    """An empty patch is a write, too, and has its event: some column is set to what it is."""
    changes = [f"{column.sql} = r.{column.sql}" for column in _columns(table, members)]
    changes = changes or [f"{column.sql} = t.{column.sql}" for column in table.columns if column.settable][:1]
    return f"""
        UPDATE {table.sql} AS t SET {", ".join(changes)} FROM {_record(table)}
        WHERE {table.match(_given(table, 2))} AND {table.unchanged} {_returning(table)}"""
