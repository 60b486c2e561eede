"""A table as the catalog has it: its columns, its key, its rows as JSON, and the pieces of SQL made of its names.

Identifiers come from the catalog only and pass through `quote`; values are parameters. A key is the text of the
primary key's column; of several, each with `%` and `,` percent-encoded, joined by `,`. Only a key's own text names a
row: `007` is not the key of the row 7, since its events say `7`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, Protocol
from zlib import crc32

import msgspec
from asyncpg import Record
from msgspec import Raw

from ..errors import Refused
from .pgtypes import JSON_TYPES, Convert, Type, Types, base, converter

OURS: Final = "_realtime."  # begins the names of tables that no channel shows
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Stale(Refused):
    """Refused by the table's shape as we knew it; final only if its shape of now says so, too."""


class Asks(Protocol):
    """A connection, as far as the catalog is concerned."""

    async def fetch(self, query: str, *args: object) -> list[Record]: ...


class Column(msgspec.Struct, frozen=True):
    name: str
    oid: int  # of its type
    type: str  # as SQL writes it
    settable: bool  # neither generated nor an identity that is always made

    @property
    def sql(self) -> str:
        return quote(self.name)

    @property
    def text(self) -> str:
        """An expression for its text as the stream has it; a cast would differ (`inet`, `bool`, `char(n)`)."""
        return f"CASE WHEN t.{self.sql} IS DISTINCT FROM NULL THEN format('%s', t.{self.sql}) END"


class Form:
    """How the rows of one shape become keys and values; `values` are always the columns' texts, in order."""

    def __init__(self, columns: Sequence[tuple[str, int]], key: Sequence[int], types: Types) -> None:
        self.places = key
        self._columns: list[tuple[bytes, Convert]] = [
            (msgspec.json.encode(name) + b":", converter(oid, types)) for name, oid in columns
        ]

    def key(self, values: Sequence[str | None]) -> str:
        return join_key([values[place] or "" for place in self.places])

    def value(self, values: Sequence[str | None]) -> Raw:
        members = [
            name + (b"null" if text is None else convert(text))
            for (name, convert), text in zip(self._columns, values, strict=True)
        ]
        return Raw(b"{%s}" % b",".join(members))


class Table(msgspec.Struct, frozen=True, dict=True):
    """`stamp` changes with the table's shape; `trouble` says why it cannot be shown, if so."""

    oid: int
    schema: str
    name: str
    stamp: str
    width: int  # how many columns it has ever had, so that one that came and went is noticed, too
    columns: tuple[Column, ...]
    key: tuple[int, ...]  # places in `columns`, in the key's order
    types: Types
    key_name: str  # of the primary key's constraint
    trouble: str = ""

    @property
    def collection(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def keys(self) -> list[Column]:
        return [self.columns[place] for place in self.key]

    @cached_property
    def shape(self) -> str:
        """What keys and values are made of, the same wherever it is asked: its number, and a sum of its columns."""
        made_of = self.width, [(column.name, column.oid) for column in self.columns], self.key
        return f"{self.oid:x}-{crc32(msgspec.json.encode(made_of)):08x}"

    @cached_property
    def texts(self) -> str:
        """A select list of all columns' texts."""
        return ", ".join(column.text for column in self.columns)

    @property
    def unchanged(self) -> str:
        """A condition that the table still has this shape: a statement made for another would say nonsense."""
        return f"(SELECT c.xmin::text FROM pg_class c WHERE c.oid = {self.oid}) = '{self.stamp}'"  # noqa: S608

    @cached_property
    def form(self) -> Form:
        return Form([(column.name, column.oid) for column in self.columns], self.key, self.types)

    def match(self, parameters: Sequence[str]) -> str:
        """A condition that the row `t` is the one whose key has these texts, and in the key's own form."""
        return " AND ".join(
            f"t.{column.sql} = {given}::{column.type} AND format('%s', t.{column.sql}) = {given}"
            for column, given in zip(self.keys, parameters, strict=True)
        )

    def split(self, key: str) -> list[str] | None:
        """The texts of the key's columns; None if there can be no such key."""
        parts = split_key(key) if len(self.key) > 1 else [key]
        return parts if len(parts) == len(self.key) and "\0" not in key else None

    def is_json(self, column: Column) -> bool:
        return base(column.oid, self.types) in JSON_TYPES

    def facts(self) -> dict[str, object]:
        return {
            "key": [column.name for column in self.keys],
            "columns": {column.name: column.type for column in self.columns},
        }


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def join_key(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return ",".join(part.replace("%", "%25").replace(",", "%2C") for part in parts)


def split_key(key: str) -> list[str]:
    return [part.replace("%2C", ",").replace("%25", "%") for part in key.split(",")]


def normal(name: str) -> str:
    """A table's collection: `entries` for `public.entries`. Raises ValueError for one that no channel may name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a table's name: {name[:160]!r}")
    if name.startswith(OURS):
        raise ValueError(f"{name[:160]!r} is the service's own: who may sign in is nobody's to see")
    return name.removeprefix("public.")


# the catalog ----------------------------------------------------------------------------------------------------------

_COLUMNS = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.xmin::text AS stamp, c.relnatts AS width,
       c.relreplident IN ('d', 'f') OR c.relreplident = 'i' AND i.indisreplident AS identified,
       a.attname AS column, a.atttypid AS type, format_type(a.atttypid, -1) AS typename,
       a.attgenerated = '' AND a.attidentity <> 'a' AS settable,
       a.attgenerated = '' OR a.attgenerated = 's' AND current_setting('server_version_num')::int >= 180000 AS shown,
       (SELECT relname FROM pg_class WHERE oid = i.indexrelid) AS key_name,
       array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum) AS place
FROM unnest($1::text[], $2::text[]) AS wanted (schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p')
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
ORDER BY c.oid, a.attnum
"""

_TYPES = """
WITH RECURSIVE made AS (
    SELECT unnest($1::oid[]) AS oid
  UNION
    SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END FROM made JOIN pg_type t USING (oid)
    WHERE t.typtype = 'd' OR t.typoutput = 'array_out'::regproc
)
SELECT t.oid, t.typtype = 'd' AS domain, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END AS of,
       t.typdelim AS delimiter
FROM made JOIN pg_type t USING (oid) WHERE t.typtype = 'd' OR t.typoutput = 'array_out'::regproc
"""


async def load_tables(connection: Asks, collections: Sequence[str]) -> dict[str, Table]:
    """The tables of these names that exist, by collection."""
    names = [name.split(".", 1) if "." in name else ["public", name] for name in collections]
    rows = await connection.fetch(_COLUMNS, [schema for schema, _ in names], [name for _, name in names])
    types = await load_types(connection, {row["type"] for row in rows})
    by_table: dict[int, list[Record]] = {}
    for row in rows:
        by_table.setdefault(row["oid"], []).append(row)
    tables = [_table(group, types) for group in by_table.values()]
    return {table.collection: table for table in tables}


async def load_types(connection: Asks, oids: set[int]) -> dict[int, Type]:
    """The domains and arrays among these types, and what they are made of."""
    rows = await connection.fetch(_TYPES, sorted(oids))
    return {row["oid"]: Type(row["of"], row["domain"], row["delimiter"].decode()) for row in rows}


def _table(rows: Sequence[Record], types: Mapping[int, Type]) -> Table:
    first, shown = rows[0], [row for row in rows if row["shown"]]
    places = sorted((row["place"], at) for at, row in enumerate(shown) if row["place"] is not None)
    key_size = sum(row["place"] is not None for row in rows)
    return Table(
        first["oid"],
        first["schema"],
        first["name"],
        first["stamp"],
        first["width"],
        tuple(Column(row["column"], row["type"], row["typename"], row["settable"]) for row in shown),
        tuple(at for _, at in places),
        types,
        first["key_name"] or "",
        _trouble(first, key_size, len(places)),
    )


def _trouble(row: Record, key_size: int, shown: int) -> str:
    """Why the table cannot be a collection. Published all the same, it would make its owner's UPDATEs fail."""
    table = f"table {row['schema']}.{row['name']}"
    if not key_size:
        return f"{table} has no primary key"
    if shown < key_size:
        return f"the primary key of {table} has a generated column, which replication does not carry"
    return "" if row["identified"] else f"the replica identity of {table} is not its primary key"
