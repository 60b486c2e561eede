"""Reading from MongoDB by the wire's own batches, and the part of a collection that a snapshot shows.

`find`, `aggregate` and `getMore` as commands: what is ready together comes together, one hop through Motor's threads
for all of it, and each reply says at which cluster time it was true. Of a database only `command` is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bson.timestamp import Timestamp
from msgspec import Raw, Struct
from pymongo.errors import PyMongoError

from ..errors import Refused
from .base import Snapshot
from .bson_json import CODEC, Document, Id, id_of, key_of, order_of, to_json

_TYPES = ("number", "string", "objectId")  # of an `_id` that a key can stand for, in the order of the server


class Cursor:
    """A cursor of the server: the batch that came last, and the cluster time and resume token that came with it."""

    def __init__(self, database: Any, session: Any, reply: Document) -> None:
        self._database, self._session = database, session
        self._collection = reply["cursor"]["ns"].partition(".")[2]
        self._take(reply, "firstBatch")

    def _take(self, reply: Document, batch: str) -> None:
        cursor = reply["cursor"]
        self._id: int = cursor["id"]
        self.batch: list[Document] = cursor[batch]
        self.time: Timestamp = cursor.get("atClusterTime", reply["operationTime"])
        self.token: Document = cursor.get("postBatchResumeToken", {})

    @property
    def live(self) -> bool:
        return self._id != 0

    async def more(self, wait: int | None = None) -> list[Document]:
        """The next batch; where the server has none yet, it waits so many milliseconds."""
        options = {} if wait is None else {"maxTimeMS": wait}
        try:
            reply = await self._database.command(
                "getMore", self._id, collection=self._collection, **options, codec_options=CODEC, session=self._session
            )
        except PyMongoError:
            self._id = 0  # gone, or its server is: there is nothing to end
            raise
        self._take(reply, "nextBatch")
        return self.batch

    async def close(self) -> None:
        if self.live:
            with suppress(PyMongoError):
                await self._database.command("killCursors", self._collection, cursors=[self._id], session=self._session)


class Window(Struct):
    """Which part of a collection a snapshot shows: these keys, or those behind `after`, at most `limit`."""

    keys: Sequence[str] | None
    after: str | None
    limit: int | None

    def filter(self) -> Document:
        """Comparisons of the server stay within a type, so a page that begins in one names the types behind it."""
        if self.keys is not None:
            return {"_id": {"$in": [identity for key in self.keys if (identity := id_of(key)) is not None]}}
        if self.after is None:
            return {"_id": {"$type": list(_TYPES)}}
        start = identity_of(self.after)
        behind = [{"_id": {"$type": kind}} for kind in _TYPES[order_of(start)[0] + 1 :]]
        return {"$or": [{"_id": {"$gt": start}}, *behind]}

    async def take(self, cursor: Cursor) -> Snapshot:
        page = Snapshot({})
        try:
            while self._fill(page, cursor.batch) and cursor.live:
                await cursor.more()
        finally:
            await cursor.close()
        return page

    def _fill(self, page: Snapshot, documents: Sequence[Document]) -> bool:
        """Whether there is room for more."""
        for document in documents:
            key = key_of(document["_id"])
            if key is None:
                continue
            if len(page.items) == self.limit:
                page.next = next(reversed(page.items))
                return False
            page.items[key] = to_json(document)
        return True

    def apply(self, page: Snapshot, event: Document) -> None:
        """Bring a page that was taken before this event to the state behind it."""
        if "documentKey" not in event:  # dropped or renamed
            page.items.clear()
            return
        key = key_of(event["documentKey"]["_id"])
        if key is None or not self._shows(key, page.next):
            return
        document = event.get("fullDocument")
        if document is not None:
            page.items[key] = to_json(document)
        elif event["operationType"] == "delete":
            page.items.pop(key, None)

    def _shows(self, key: str, last: str | None) -> bool:
        if self.keys is not None:
            return key in self.keys
        return (self.after is None or _order(key) > _order(self.after)) and (
            last is None or _order(key) <= _order(last)
        )


def _order(key: str) -> tuple[int, Any]:
    return order_of(identity_of(key))


def identity_of(key: str) -> Id:
    identity = id_of(key)
    if identity is None:
        raise Refused(f"not a key: {key!r}", hint="quoted is only what would else be a number or an ObjectId")
    return identity


def in_order(items: dict[str, Raw]) -> dict[str, Raw]:
    return {key: items[key] for key in sorted(items, key=_order)}
