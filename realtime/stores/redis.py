"""Keys of a Redis (7 or later) or Valkey as collections: `SET sensors:7 22.0` is key `7` of `redis/sensors`.

A write is one script: the value, and an entry in the store's own stream of changes, which is all that `changes` reads;
what others write gets its entry as soon as it is found (`redis_foreign`): its final state rather than each value. A
mark is the id of an entry, and holds as long as that very entry is there: a server that was flushed, restored or that
lost its last second does not have it. Versions are entry ids, too: of the server's clock, they outlive the stream.
(No Redis Cluster: a script uses several slots.)
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from importlib.resources import files
from secrets import token_hex
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import NotFound, Refused, StoreDown
from ..protocol import Condition, beyond, merge_patch
from ..redis_pubsub import NEVER, answering, client
from .base import Batch, Lost, Snapshot, Written
from .redis_foreign import By, Foreign
from .redis_items import (
    DEFAULT,
    OURS,
    Entry,
    change_of,
    check_collection,
    digest_of,
    found_by,
    name_of,
    place_of,
    to_json,
    version_of,
)

CHANGES = f"{OURS}:changes"  # a stream
SEEN = f"{OURS}:seen"  # a hash of names, and digests of what was told of them last
COLLECTIONS = f"{OURS}:collections"  # a set of those that have items
INDEX = f"{OURS}:index:"  # + collection: a sorted set of its keys, as SCAN could not be read in one step with a fence

NOTHING = b"0-0"  # the fence of a stream without entries
RETENTION = 10_000  # changes that can still be told
BATCH = 500  # changes told at once
PAGE = 1000  # items read in one step of the server
WAIT = 1000  # milliseconds until a stream is looked at in which nothing happens: it may be gone
TRIES = 20  # of a write whose item is written by others all the time

_MARK_HERE = "return append('', 'none', '')"
_HEAD, _WRITE, _RECONCILE, _READ, _PAGE, _COLLECTIONS = (
    files(__package__).joinpath(f"redis_{name}.lua").read_text()
    for name in ("items", "write", "reconcile", "read", "page", "collections")
)
_MARK = re.compile(r"\d{1,20}-\d{1,20}")

Shows = Callable[[str], bool]
Rewrite = Callable[[Raw | None], Raw | None]


class RedisStore:
    read_only = False

    def __init__(self, url: str, *, name: str = "redis") -> None:
        self.name, self._url = name, url

    async def open(self) -> None:
        self._redis = client(self._url, NEVER)  # a write that is sent twice would be answered as the second one

    async def close(self) -> None:
        await self._redis.aclose()

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        """Those with items: every other name is a collection without any."""
        found = await self._call(_COLLECTIONS)
        return {name.decode(): {"items": count} for name, count in sorted(zip(found[::2], found[1::2], strict=True))}

    def contains(self, fence: str, version: str) -> bool:
        return not beyond(fence, version)

    # reading ----------------------------------------------------------------------------------------------------------

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        """Sorted by key. May be ahead of the fence by what others have just written, and `changes` has yet to tell."""
        check_collection(collection)
        if keys is not None:
            return await self._named(collection, keys)
        return await self._page(collection, after or "", limit)

    async def _named(self, collection: str, keys: Sequence[str]) -> Snapshot:
        names = {name: key for key in keys if (name := _name_or_none(collection, key)) is not None}
        items, fences = dict[str, Raw](), list[bytes]()
        for portion in _portions(list(names), PAGE):
            fence, *values = await self._call(_READ, portion)
            fences.append(fence)
            for name, kind, raw in zip(portion, values[::2], values[1::2], strict=True):
                _set(items, names[name], to_json(kind, raw))
        fence = await self._one_moment(collection, items, fences, set(keys).__contains__)
        return Snapshot(items, version_of(fence))

    async def _page(self, collection: str, after: str, limit: int | None) -> Snapshot:
        """In steps that do not hold up the server for long."""
        items, fences, last, more = dict[str, Raw](), list[bytes](), after, True
        prefix = "" if collection == DEFAULT else f"{collection}:"
        while more and (limit is None or len(items) < limit):
            wanted = PAGE if limit is None else min(PAGE, limit - len(items))
            fence, *found = await self._call(_PAGE, (), collection, prefix, last, wanted + 1)
            fences.append(fence)
            more = len(found) > 3 * wanted
            for key, kind, raw in list(zip(found[::3], found[1::3], found[2::3], strict=True))[:wanted]:
                last = key.decode()
                _set(items, last, to_json(kind, raw))
        end = last if more else None
        fence = await self._one_moment(collection, items, fences, lambda key: after < key and (not more or key <= last))
        return Snapshot(dict(sorted(items.items())), version_of(fence), end)

    async def _one_moment(self, collection: str, items: dict[str, Raw], fences: list[bytes], shows: Shows) -> bytes:
        """What was read in several steps is brought to one moment by what was told since the first: to that fence."""
        if len(fences) == 1:
            return fences[0]
        entries = await self._entries(fences[0])
        if fences[0] != NOTHING and (not entries or entries[0][0] != fences[0]):
            raise StoreDown(f"{self.name}/{collection} changes faster than it can be read")
        for change in filter(None, map(change_of, entries)):
            if change.collection == collection and shows(change.key):
                _set(items, change.key, change.value if isinstance(change.value, Raw) else None)
        return entries[-1][0] if entries else NOTHING

    # writing ----------------------------------------------------------------------------------------------------------

    async def put(self, collection: str, key: str | None, value: Raw, condition: Condition) -> Written:
        """Refused where the key is a hash, a list or the like: whoever made it that would lose it."""
        key = f"{time.time_ns():016x}{token_hex(4)}" if key is None else key
        return await self._swap(collection, key, condition, lambda _: value)

    async def patch(self, collection: str, key: str, value: Raw, condition: Condition) -> Written:
        patch = msgspec.json.decode(value)

        def merged(current: Raw | None) -> Raw:
            if current is None:
                raise NotFound(f"no {key!r} in {self.name}/{collection}")
            return Raw(msgspec.json.encode(merge_patch(msgspec.json.decode(current), patch)))

        return await self._swap(collection, key, condition, merged, blind=False)

    async def delete(self, collection: str, key: str, condition: Condition) -> Written:
        return await self._swap(collection, key, condition, lambda _: None)

    async def _swap(
        self, collection: str, key: str, condition: Condition, change: Rewrite, *, blind: bool = True
    ) -> Written:
        """Read, check, and write what `change` makes of it (None: delete) if it is still what was read; else again.

        Without a condition a `blind` change need not be read for.
        """
        check_collection(collection)
        name = name_of(collection, key)
        for _ in range(TRIES):
            seen, current = "*", None
            if condition or not blind:
                _, kind, raw = await self._call(_READ, [name])
                seen, current = digest_of(kind, raw), to_json(kind, raw)
                condition.check(key, None if current is None else bytes(current))
            value = change(current)
            args = ("delete", b"") if value is None else ("put", bytes(value))
            outcome, said = await self._call(_WRITE, [name], collection, key, seen, *args)
            if outcome == b"done":
                return Written(key, version_of(said), value)
            if outcome == b"missing":
                raise NotFound(f"no {key!r} in {self.name}/{collection}")
            if outcome == b"refused":
                raise Refused(f"{name.decode()!r} is a {said.decode()}, not a string", hint="delete it first")
        raise StoreDown(f"{self.name}: {key!r} changes faster than it can be written")

    # changes ----------------------------------------------------------------------------------------------------------

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        """Foreign writes are looked for while this runs, and only then. Before `Lost`, all keys have been looked at."""
        place = mark.encode() if mark is not None and _MARK.fullmatch(mark) else None
        reason = "the first look at this server" if mark is None else "the mark is not known here"
        async with Foreign(self._url, self._redis, SEEN, self._reconcile) as foreign:
            while True:
                if place is None:
                    await foreign.sweep()
                    place = await self._call(_MARK_HERE)
                    yield Lost(reason, place.decode())
                    reason = "the server was flushed, lost data, or forgot changes before they were read"
                entries = await self._follow(place)
                foreign.check()
                if entries and entries[0][1].get(b"after") == place:
                    place = entries[-1][0]
                    changes = list(filter(None, map(change_of, entries)))
                    yield Batch(changes, place.decode(), found_by(entries))
                elif entries or not await self._knows(place):
                    place = None

    async def _knows(self, place: bytes) -> bool:
        return bool(await self._entries(place, place))

    async def _entries(self, first: bytes, last: bytes | str = "+") -> list[Entry]:
        async with answering(StoreDown):
            entries: Any = await self._redis.xrange(CHANGES, first, last)
        return entries  # type: ignore[no-any-return]

    async def _follow(self, place: bytes) -> list[Entry]:
        """The next entries; none after a while in which there were none."""
        async with answering(StoreDown):
            streams: Any = await self._redis.xread({CHANGES: place}, count=BATCH, block=WAIT)
        return streams[0][1] if streams else []

    async def _reconcile(self, names: Sequence[bytes], by: By) -> int:
        places = {name: place for name in names if (place := place_of(name)) is not None}
        if not places:
            return 0
        found: int = await self._call(
            _RECONCILE, list(places), by, *(part for each in places.values() for part in each)
        )
        return found

    async def _call(self, script: str, names: Sequence[bytes] = (), *args: str | bytes | int) -> Any:
        async with answering(StoreDown):
            return await self._redis.register_script(_HEAD + script)(
                [CHANGES, SEEN, COLLECTIONS, *names], [INDEX, RETENTION, *args]
            )


def _name_or_none(collection: str, key: str) -> bytes | None:
    try:
        return name_of(collection, key)
    except Refused:  # there can be no such item
        return None


def _set(items: dict[str, Raw], key: str, value: Raw | None) -> None:
    if value is None:
        items.pop(key, None)
    else:
        items[key] = value


def _portions(names: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    """At least one, if an empty one."""
    return [names[start : start + size] for start in range(0, max(len(names), 1), size)]
