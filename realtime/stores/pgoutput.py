"""Decodes what a Postgres walsender says: frames of the stream, and in them `pgoutput` messages of version 1. Pure.

After PostgreSQL's documentation, "Streaming Replication Protocol" and "Logical Replication Message Formats". Numbers
are big-endian, times microseconds since 2000-01-01. Version 1 sends committed transactions only, one after the other
in commit order; a Relation message precedes the first row of its table on each connection.
"""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct

_EPOCH = 946_684_800  # 2000-01-01 in seconds since 1970

_DATA, _KEEPALIVE, _STATUS = struct.Struct(">cQQq"), struct.Struct(">cQqB"), struct.Struct(">cQQQqB")
_BEGIN, _COMMIT = struct.Struct(">QqI"), struct.Struct(">BQQq")
_UINT16, _UINT32, _COLUMN, _TRUNCATE = (
    struct.Struct(">H"),
    struct.Struct(">I"),
    struct.Struct(">Ii"),
    struct.Struct(">IB"),
)


class _Unchanged:
    """The place of a large value that an UPDATE did not touch and that the log therefore does not have (TOAST)."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = _Unchanged()
Row = list[str | _Unchanged | None]  # a column's text, in the order of the relation's columns


class Data(Struct, frozen=True):
    """A frame that carries one pgoutput message."""

    payload: bytes


class Keepalive(Struct, frozen=True):
    """All that was committed before `end` has been sent. `reply`: the server wants to hear from us now."""

    end: int
    reply: bool


class Begin(Struct, frozen=True):
    """`commit` is the LSN of the transaction's commit record, `time` that of the commit in seconds since 1970."""

    commit: int
    time: float
    xid: int


class Commit(Struct, frozen=True):
    """`end` is the LSN just behind the commit record: where a stream goes on after this transaction."""

    end: int


class Column(Struct, frozen=True):
    name: str
    type: int


class Relation(Struct, frozen=True):
    """A table's shape as it was when the rows that follow were written."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]


class Insert(Struct, frozen=True):
    relation: int
    new: Row


class Update(Struct, frozen=True):
    """`old`: the `whole` row with REPLICA IDENTITY FULL, else the key's columns if the key changed, else None."""

    relation: int
    old: Row | None
    new: Row
    whole: bool


class Delete(Struct, frozen=True):
    """`old`: the whole row with REPLICA IDENTITY FULL, else the key's columns; the others are None."""

    relation: int
    old: Row


class Truncate(Struct, frozen=True):
    relations: tuple[int, ...]


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate


def frame(data: bytes) -> Data | Keepalive:
    """What one CopyData message from the server holds. Raises ValueError."""
    kind = data[:1]
    if kind == b"w":
        return Data(data[_DATA.size :])
    if kind == b"k":
        _, end, _, reply = _KEEPALIVE.unpack(data)
        return Keepalive(end, bool(reply))
    raise ValueError(f"unknown frame {kind!r} in the replication stream")


def status(written: int, flushed: int, now: float, *, reply: bool) -> bytes:
    """Our report to the server: what came in, what it may forget; `now` in seconds since 1970."""
    return _STATUS.pack(b"r", written, flushed, flushed, int((now - _EPOCH) * 1e6), reply)


def decode(payload: bytes) -> Message | None:
    """One pgoutput message; None for those that say nothing about rows (Type, Origin, Message). Raises ValueError."""
    try:
        decoder = _DECODERS[payload[:1]]
    except KeyError:
        raise ValueError(f"unknown pgoutput message {payload[:1]!r}") from None
    return decoder(payload) if decoder else None


def _begin(data: bytes) -> Begin:
    commit, time, xid = _BEGIN.unpack_from(data, 1)
    return Begin(commit, time / 1e6 + _EPOCH, xid)


def _commit(data: bytes) -> Commit:
    return Commit(_COMMIT.unpack_from(data, 1)[2])


def _relation(data: bytes) -> Relation:
    (oid,) = _UINT32.unpack_from(data, 1)
    schema, at = _string(data, 5)
    name, at = _string(data, at)
    (count,) = _UINT16.unpack_from(data, at + 1)  # behind the replica identity
    at += 3
    columns = []
    for _ in range(count):
        column, at = _string(data, at + 1)  # behind the flags
        columns.append(Column(column, _COLUMN.unpack_from(data, at)[0]))
        at += _COLUMN.size
    return Relation(oid, schema or "pg_catalog", name, tuple(columns))


def _insert(data: bytes) -> Insert:
    return Insert(_UINT32.unpack_from(data, 1)[0], _row(data, 6)[0])


def _update(data: bytes) -> Update:
    old, at, kind = None, 5, data[5:6]
    if kind in (b"K", b"O"):
        old, at = _row(data, at + 1)
    return Update(_UINT32.unpack_from(data, 1)[0], old, _row(data, at + 1)[0], kind == b"O")


def _delete(data: bytes) -> Delete:
    return Delete(_UINT32.unpack_from(data, 1)[0], _row(data, 6)[0])


def _truncate(data: bytes) -> Truncate:
    count, _ = _TRUNCATE.unpack_from(data, 1)
    return Truncate(struct.unpack_from(f">{count}I", data, 6))


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _row(data: bytes, at: int) -> tuple[Row, int]:
    """The tuple that starts at `at`, and where it ends."""
    (count,) = _UINT16.unpack_from(data, at)
    at += 2
    row: Row = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t: text
            start = at + 4
            at = start + _UINT32.unpack_from(data, at)[0]
            row.append(data[start:at].decode())
        elif kind == 0x6E:  # n: NULL
            row.append(None)
        elif kind == 0x75:  # u: unchanged
            row.append(UNCHANGED)
        else:
            raise ValueError(f"unknown kind of column {chr(kind)!r}")
    return row, at


_DECODERS = {
    b"B": _begin,
    b"C": _commit,
    b"R": _relation,
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"T": _truncate,
    b"Y": None,
    b"O": None,
    b"M": None,
}
