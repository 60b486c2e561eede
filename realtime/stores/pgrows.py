"""From pgoutput's messages to changes of keys: one connection's relations, and the transaction that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET, Raw, Struct, UnsetType

from ..protocol import Change
from .base import Lost
from .pgoutput import UNCHANGED, Begin, Commit, Delete, Insert, Relation, Row, Truncate, Update
from .pgtable import Form, Table, load_types
from .pgversions import Visible, version

if TYPE_CHECKING:
    from .pgpool import Connection


class _Shape(Struct, frozen=True):
    collection: str
    form: Form | None  # None: the table's key cannot be found in it


class Rows:
    """`found` grows in commit order. A put without a value is one whose row has a part that the log has not (TOAST);
    a Lost has no mark yet. `xids` are the transactions in it, and `place` the LSN from which a stream would go on
    behind it: the end of the last whole transaction."""

    def __init__(self, place: int, visible: Visible) -> None:
        self.place = place
        self.visible = visible  # any recent one: it has the upper half of transaction ids
        self.found: list[Change | Lost] = []
        self.xids: set[int] = set()
        self._shapes: dict[int, _Shape] = {}
        self._begin: Begin | None = None
        self._xid = self._index = 0

    def drain(self) -> list[Change | Lost]:
        found, self.found, self.xids = self.found, [], set()
        return found

    async def relate(self, connection: Connection, relation: Relation, table: Table | None) -> None:
        """Learn the shape of a table's next rows; no table: they are not for us.

        It is the shape at the time of writing, so the relation's columns count and not the table's.
        """
        self._shapes.pop(relation.oid, None)
        if table is None:
            return
        names = [column.name for column in relation.columns]
        keys = [column.name for column in table.keys]
        form = None
        if set(keys) <= set(names):
            types = await load_types(connection, {column.type for column in relation.columns})
            columns = [(column.name, column.type) for column in relation.columns]
            form = Form(columns, [names.index(name) for name in keys], types)
        self._shapes[relation.oid] = _Shape(table.collection, form)

    def take(self, message: Begin | Commit | Insert | Update | Delete | Truncate) -> None:
        match message:
            case Begin():
                self._begin, self._index, self._xid = message, 0, self.visible.full(message.xid)
            case Commit():
                self._begin, self.place = None, message.end
            case Insert():
                self._inserted(message)
            case Update():
                self._updated(message)
            case Delete():
                self._deleted(message)
            case Truncate():
                self._truncated(message)

    def idle(self, place: int) -> None:
        """The server has sent all that was committed before `place`."""
        if self._begin is None:
            self.place = max(self.place, place)

    def _inserted(self, insert: Insert) -> None:
        if known := self._known(insert.relation):
            self._put(*known, insert.new)

    def _updated(self, update: Update) -> None:
        if not (known := self._known(update.relation)):
            return
        collection, form = known
        new = update.new
        if update.old is not None:
            new = _completed(new, update.old, range(len(new)) if update.whole else form.places)
            was = form.key(_texts(update.old))
            if was != form.key(_texts(new)):
                self._add(collection, was, None)
        self._put(collection, form, new)

    def _deleted(self, delete: Delete) -> None:
        if known := self._known(delete.relation):
            collection, form = known
            self._add(collection, form.key(_texts(delete.old)), None)

    def _truncated(self, truncate: Truncate) -> None:
        for oid in truncate.relations:
            if shape := self._shapes.get(oid):
                self._lose(shape.collection, "the table was truncated")

    def _known(self, oid: int) -> tuple[str, Form] | None:
        shape = self._shapes.get(oid)
        if shape is None:
            return None
        if shape.form is None:
            self._lose(shape.collection, "the table's key was altered")
            return None
        return shape.collection, shape.form

    def _put(self, collection: str, form: Form, row: Row) -> None:
        texts = _texts(row)
        self._add(collection, form.key(texts), UNSET if UNCHANGED in row else form.value(texts))

    def _add(self, collection: str, key: str, value: Raw | UnsetType | None) -> None:
        """`value` None: the key is gone."""
        begin = self._in()
        place = version(begin.commit, self._index, self._xid)
        self._index += 1
        if value is None:
            self.found.append(Change(collection, key, "delete", UNSET, place, begin.time))
        else:
            self.found.append(Change(collection, key, "put", value, place, begin.time))

    def _lose(self, collection: str, reason: str) -> None:
        self._in()
        lost = Lost(reason, "", (collection,))
        if not self.found or self.found[-1] != lost:
            self.found.append(lost)

    def _in(self) -> Begin:
        if self._begin is None:
            raise ValueError("a row outside of a transaction in the replication stream")
        self.xids.add(self._xid)
        return self._begin


def _completed(new: Row, old: Row, places: Sequence[int]) -> Row:
    """What the new row does not repeat, the old one has at these places."""
    return [
        was if now is UNCHANGED and at in places else now for at, (now, was) in enumerate(zip(new, old, strict=True))
    ]


def _texts(row: Row) -> list[str | None]:
    """UNCHANGED as NULL: whoever needs the value has looked before."""
    return [text if isinstance(text, str) else None for text in row]
