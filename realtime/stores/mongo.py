"""MongoDB, by Motor: documents by their `_id`, captured by one change stream on the database.

All use of Motor is in this file, since Motor has a successor: pymongo's own `AsyncMongoClient`, with the same calls.
The driver's retries are off, because a retry hides both the time it takes and the time of the write.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

os.environ.setdefault("MOTOR_MAX_WORKERS", "64")  # read at import; the change stream sits in one of these threads

from bson.objectid import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from msgspec import Raw
from pymongo import ReadPreference
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError, WriteError
from pymongo.results import UpdateResult
from pymongo.write_concern import WriteConcern

from ..errors import ConfigError, Duplicate, NotFound, Refused, StoreDown, UnknownChannel
from ..protocol import Condition, beyond, is_collection, merge_patch
from .base import Batch, Lost, Snapshot, Written
from .bson_json import CODEC, Document, Id, key_of, to_document, to_json
from .mongo_changes import Place, fence_of, floor_of, read
from .mongo_reads import Cursor, Window, identity_of, in_order

DATABASE = "realtime"
AWAIT = 1000  # ms that the server holds a request for changes when there are none
BATCH = 1000  # documents of a snapshot in one reply
TRIES = 20  # of a write that others keep overtaking
_OPTIONS: dict[str, Any] = {
    "serverSelectionTimeoutMS": 2000,
    "connectTimeoutMS": 1500,
    "socketTimeoutMS": 2000,
    "retryReads": False,
    "retryWrites": False,
}

Rewrite = Callable[[Document], Document | None]


class MongoStore:
    """The collections of one database; `url` is a MongoDB connection string of a replica set (or a server like one)."""

    read_only = False

    def __init__(self, url: str, database: str | None = None, *, name: str = "mongo") -> None:
        self.name = name
        self._url, self._wanted = url, database
        self._pins: bool | None = None  # whether the server pins a read to a cluster time; asked once

    async def open(self) -> None:
        try:
            self._client: Any = AsyncIOMotorClient(self._url, **_OPTIONS)
            self._name = self._wanted or self._client.get_default_database(DATABASE).name
        except (ConfigurationError, ValueError) as error:
            raise ConfigError(f"{self.name}: {error}") from None
        self._database: Any = self._client.get_database(
            self._name,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority"),
        )

    async def close(self) -> None:
        self._client.close()

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        """Those that hold something by now; a write to any other makes it. Views are not among them: they are mute."""
        with self._answers():
            names = await self._database.list_collection_names(filter={"type": "collection"})
        return {name: {"key": ["_id"]} for name in sorted(names) if _valid(name) and is_collection(name)}

    # reading ----------------------------------------------------------------------------------------------------------

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        """Sorted by `_id` as the server sorts: numbers, strings, ObjectIds. Other types of `_id` are left out."""
        _check(collection)
        window = Window(keys, after, limit)
        async with self._session() as session:
            if self._pins is None:
                self._pins = "secantusVersion" not in await self._database.command("buildInfo")
            if self._pins:
                return await self._pinned(session, collection, window)
            return await self._caught_up(session, collection, window)

    def contains(self, fence: str, version: str) -> bool:
        return not beyond(fence, version)

    async def _pinned(self, session: Any, collection: str, window: Window) -> Snapshot:
        """One read of the majority's state at a cluster time, which is the fence."""
        cursor = await self._find(session, collection, window, "snapshot")
        fence = fence_of(cursor.time)  # of the first reply: those that follow are of the same moment, but say another
        page = await window.take(cursor)
        return Snapshot(page.items, fence, page.next)

    async def _caught_up(self, session: Any, collection: str, window: Window) -> Snapshot:
        """The same from SecantusDB, which takes a request for a pinned read and then reads whatever is there.

        So: open a change stream, read, and apply to what was read all that the stream says until it is silent. The
        fence is its last event, or else the moment when it was opened. A write that had its time but was not yet to be
        seen at one of the two moments would be missing: a delete of nothing waits until the collection has none such.
        """
        stream = await self._stream(session, {})
        try:
            await self._settle(session, collection)
            page = await window.take(await self._find(session, collection, window, "local"))
            await self._settle(session, collection)
            time = stream.time
            while events := await stream.more(1):
                for event in events:
                    if event.get("ns", {}).get("coll") == collection:
                        time = event["clusterTime"]
                        window.apply(page, event)
            return Snapshot(in_order(page.items), fence_of(time), page.next)
        finally:
            await stream.close()

    async def _settle(self, session: Any, collection: str) -> None:
        await self._database[collection].delete_one({"_id": {"$eq": ObjectId()}}, session=session)

    async def _find(self, session: Any, collection: str, window: Window, level: str) -> Cursor:
        reply = await self._database.command(
            "find",
            collection,
            filter=window.filter(),
            sort={"_id": 1},
            batchSize=BATCH if window.limit is None else window.limit + 1,
            readConcern={"level": level},
            codec_options=CODEC,
            session=session,
        )
        return Cursor(self._database, session, reply)

    # writing ----------------------------------------------------------------------------------------------------------

    async def put(self, collection: str, key: str | None, value: Raw, condition: Condition) -> Written:
        document = to_document(value)
        identity = ObjectId() if key is None else identity_of(key)
        key = str(identity) if key is None else key
        changed = True
        async with self._writing(collection) as (target, session):
            if condition.exists is False:
                await self._insert(target, session, {"_id": identity, **document}, condition)
            elif condition:
                _, changed = await self._swap(target, session, identity, condition, lambda _: document)
            else:
                result = await target.replace_one(_is(identity), document, upsert=True, session=session)
                changed = _changed(result)
            return Written(key, floor_of(session.operation_time) if changed else "", to_json(document))

    async def patch(self, collection: str, key: str, value: Raw, condition: Condition) -> Written:
        """Merged as BSON, so that what the patch does not name keeps its type."""
        changes = to_document(value)
        async with self._writing(collection) as (target, session):
            merged, changed = await self._swap(
                target, session, identity_of(key), condition, lambda found: merge_patch(found, changes)
            )
            return Written(key, floor_of(session.operation_time) if changed else "", to_json(merged))

    async def delete(self, collection: str, key: str, condition: Condition) -> Written:
        identity = identity_of(key)
        async with self._writing(collection) as (target, session):
            if condition:
                await self._swap(target, session, identity, condition, lambda _: None)
            elif not (await target.delete_one(_is(identity), session=session)).deleted_count:
                raise NotFound(f"no {key!r} in {self.name}/{collection}")
            return Written(key, floor_of(session.operation_time))

    async def _insert(self, target: Any, session: Any, document: Document, condition: Condition) -> None:
        try:
            await target.insert_one(document, session=session)
        except DuplicateKeyError as error:
            if (error.details or {}).get("keyPattern") != {"_id": 1}:
                raise
            current = await target.find_one(_is(document["_id"]), session=session)
            condition.check(key_of(document["_id"]) or "", _json(current))
            raise StoreDown(f"{self.name}: the document went away while it was in the way") from None

    async def _swap(
        self, target: Any, session: Any, identity: Id, condition: Condition, change: Rewrite
    ) -> tuple[Document, bool]:
        """Read, check, and write what `change` makes of it (None: delete) if it is still what was read; else again.

        Returns what it is now, and whether that is something else: the server tells nobody of a write that is not.
        """
        key = key_of(identity) or ""
        for _ in range(TRIES):
            current = await target.find_one(_is(identity), session=session)
            condition.check(key, _json(current))
            if current is None:
                raise NotFound(f"no {key!r} in {self.name}/{target.name}")
            same = {**_is(identity), "$expr": {"$eq": ["$$ROOT", {"$literal": current}]}}
            after = change({name: field for name, field in current.items() if name != "_id"})
            if after is None:
                if (await target.delete_one(same, session=session)).deleted_count:
                    return {}, True
                continue
            result = await target.replace_one(same, after, session=session)
            if result.matched_count:
                return after, _changed(result)
        raise StoreDown(f"{self.name}: {key!r} changes faster than it can be written")

    # changes ----------------------------------------------------------------------------------------------------------

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        """An update by another program shows the document as it is when it is looked up, not later than the event."""
        place = None if mark is None else Place.parse(mark, self._name)
        reason = "the first look at this database" if mark is None else "the mark is of another database"
        async with self._session() as session:
            while True:
                stream, lost = await self._watch(session, place, reason)
                try:
                    place = place if place and not lost else Place.at(self._name, stream.token)
                    if lost:
                        yield Lost(lost, place.mark)
                    async for found in self._follow(stream, place):
                        yield found
                finally:
                    await stream.close()
                place, reason = None, "the database was dropped"

    async def _watch(self, session: Any, place: Place | None, reason: str) -> tuple[Cursor, str]:
        """A stream from the place, or else a new one and why: when it opens, every later change is in it."""
        if place is not None:
            try:
                stream = await self._stream(session, {"resumeAfter": place.resume})
            except OperationFailure as error:  # of all its reasons the token is one; if it was not, the next line fails
                reason = f"the server cannot go on from the mark: {_words(error)}"
            else:
                if stream.time >= place.timestamp:
                    return stream, ""
                await stream.close()
                reason = "the server has gone back behind the mark"
        return await self._stream(session, {}), reason

    async def _stream(self, session: Any, start: Document) -> Cursor:
        reply = await self._database.command(
            "aggregate",
            1,
            pipeline=[{"$changeStream": {"fullDocument": "updateLookup", **start}}],
            cursor={},
            codec_options=CODEC,
            session=session,
        )
        return Cursor(self._database, session, reply)

    async def _follow(self, stream: Cursor, place: Place) -> AsyncIterator[Batch | Lost]:
        """Until the stream ends, as it does when the database is dropped."""
        events, kept = stream.batch, place.mark
        while True:
            told, place = read(events, place)
            for found in told:
                kept = found.mark
                yield found
            if not stream.live:
                return
            place = place.moved(stream.token)
            if place.mark != kept:
                kept = place.mark
                yield Batch((), kept)  # so that the mark does not grow old where nothing happens
            events = await stream.more(AWAIT)

    # the driver -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Any]:
        """A cursor is read in the session that opened it."""
        with self._answers():
            async with await self._client.start_session(causal_consistency=False) as session:
                yield session

    @asynccontextmanager
    async def _writing(self, collection: str) -> AsyncIterator[tuple[Any, Any]]:
        """The collection, and a session that learns the time of the write."""
        _check(collection)
        async with self._session() as session:
            yield self._database[collection], session

    @contextmanager
    def _answers(self) -> Any:
        """Nothing of the driver's errors gets out."""
        try:
            yield
        except DuplicateKeyError as error:
            raise Duplicate(_words(error)) from None
        except WriteError as error:
            raise Refused(_words(error)) from None
        except PyMongoError as error:
            raise StoreDown(f"{self.name} does not answer: {_words(error)}") from None


def _changed(result: UpdateResult) -> bool:
    return bool(result.modified_count or result.upserted_id is not None)


def _is(identity: Id) -> Document:
    return {"_id": {"$eq": identity}}


def _json(document: Document | None) -> bytes | None:
    return None if document is None else bytes(to_json(document))


def _check(collection: str) -> None:
    if not _valid(collection):
        raise UnknownChannel(f"not a collection's name: {collection!r}")


def _valid(collection: str) -> bool:
    odd = collection.startswith(("system.", ".")) or collection.endswith(".") or ".." in collection
    return bool(collection) and not odd and not set(collection) & {"$", "\0"}


def _words(error: PyMongoError) -> str:
    """The server's own words, or the first of the driver's many."""
    details = error.details if isinstance(error, OperationFailure) else None
    return str((details or {}).get("errmsg") or str(error).partition(",")[0])
