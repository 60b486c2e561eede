"""Events of a MongoDB change stream as changes, without a server: versions, marks, and what cannot be told.

All events of a transaction bear one cluster time, so a version is that time and an index within it. A stream may end
and go on between two of them: the mark has the index, too, and the same event has the same version however often it
is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

import msgspec
from bson import json_util
from bson.timestamp import Timestamp
from msgspec import UNSET, Struct

from ..protocol import Change
from .base import Batch, Lost
from .bson_json import Document, key_of, to_json

_PUTS = frozenset({"insert", "replace", "update"})


def floor_of(time: Timestamp) -> str:
    """Sorts below every version of that time, and above all earlier ones: the version that a write returns."""
    return f"{time.time:08x}.{time.inc:08x}"


def fence_of(time: Timestamp) -> str:
    """Sorts above every version of that time, and below all later ones."""
    return f"{floor_of(time)}.z"


class Place(Struct, frozen=True):
    """How far a stream was read: its resume token (as Extended JSON), and the time and index of its last event."""

    database: str
    token: str
    time: int = 0
    inc: int = 0
    index: int = 0

    @classmethod
    def at(cls, database: str, token: Document) -> Self:
        return cls(database, json_util.dumps(token))

    @classmethod
    def parse(cls, mark: str, database: str) -> Self | None:
        """The place that `mark` wrote, None if it is of another database or not ours."""
        try:
            place = msgspec.json.decode(mark, type=cls)
        except msgspec.MsgspecError:
            return None
        return place if place.database == database else None

    @property
    def mark(self) -> str:
        return msgspec.json.encode(self).decode()

    @property
    def version(self) -> str:
        return f"{self.time:08x}.{self.inc:08x}.{self.index:06x}"

    @property
    def resume(self) -> Document:
        token: Document = json_util.loads(self.token)
        return token

    @property
    def timestamp(self) -> Timestamp:
        return Timestamp(self.time, self.inc)

    def moved(self, token: Document) -> Self:
        """Further on, where nothing happened."""
        return msgspec.structs.replace(self, token=json_util.dumps(token))

    def after(self, event: Document) -> Self:
        """Behind this event. A time that goes back does not take the version back: versions only grow."""
        time, last = event["clusterTime"], self.timestamp
        index = self.index + 1 if time <= last else 0
        time = max(time, last)
        return type(self)(self.database, json_util.dumps(event["_id"]), time.time, time.inc, index)


def read(events: Sequence[Document], place: Place) -> tuple[list[Batch | Lost], Place]:
    """What a batch of events says, in order, and the place behind it."""
    found: list[Batch | Lost] = []
    changes: list[Change] = []
    for event in events:
        before, place = place, place.after(event)
        if gone := _gone(event):
            found += [Batch(changes, before.mark)] if changes else []
            found.append(Lost(f"{event['operationType']} of {gone[0]!r}", place.mark, gone))
            changes = []
        else:
            changes += _changed(event, place)
    if changes:
        found.append(Batch(changes, place.mark))
    return found, place


def _gone(event: Document) -> tuple[str, ...]:
    """The collections whose documents went all at once, without an event for each."""
    kind = event["operationType"]
    if kind == "rename":
        return event["ns"]["coll"], event["to"]["coll"]
    return (event["ns"]["coll"],) if kind == "drop" else ()


def _changed(event: Document, place: Place) -> tuple[Change, ...]:
    """Nothing for what is no change of an item: no key can name it, or it is deleted by now and its delete follows."""
    kind = event["operationType"]
    if kind not in _PUTS and kind != "delete":
        return ()
    key, document = key_of(event["documentKey"]["_id"]), event.get("fullDocument")
    collection, version, time = event["ns"]["coll"], place.version, _time(event)
    if key is None or (document is None and kind in _PUTS):
        return ()
    if document is None:
        return (Change(collection, key, "delete", UNSET, version, time),)
    return (Change(collection, key, "put", to_json(document), version, time),)


def _time(event: Document) -> float:
    wall: Any = event.get("wallTime")
    if isinstance(wall, datetime):
        return wall.replace(tzinfo=UTC).timestamp()
    return float(event["clusterTime"].time)
