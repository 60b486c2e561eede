"""The contract of a store: a system of record that others write to, too.

1. A channel is `store/collection`; a collection maps string keys to JSON values.
2. A write goes to the store and nowhere else. It returns a version: the first change of that key at or above it is
   this write. (Postgres and Mongo know a change's exact place only when their log has it.) Empty: the value was
   that already, and no change comes of it.
3. `changes(mark)` yields every committed change in commit order, also those made behind our back, each with a version
   above all earlier ones, and goes on from a mark. What cannot be known is said (`Lost`), never skipped; without a
   mark, the first thing said is `Lost`. A change is yielded only when a new snapshot would contain it.
4. `snapshot` returns items and a fence; `contains(fence, version)` says exactly whether a change is already in them.
   A fence is `<ceiling>[_<rest>]`, of letters, digits, `.`, `_`, `-`; no version that sorts above the ceiling is in it.
5. A read-only store raises `ReadOnly`, an unknown collection `UnknownChannel`, a value that it will not take `Refused`
   or `Duplicate`, a write whose condition does not hold `Conflict`; a delete or patch of a missing key `NotFound`; and
   a store that does not answer within seconds raises `StoreDown`. Nothing of its driver's errors gets out.
6. Versions, fences and marks survive a restart of the service and are the same on every node.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Raw, Struct

from ..protocol import Change, Condition


class Snapshot(Struct):
    """Items at one moment, and the fence that says which. `next`: the last key of a page that has more after it."""

    items: dict[str, Raw]
    fence: str = ""
    next: str | None = None

    def of(self, key: str | None) -> Mapping[str, Raw]:
        """What of it one selector is shown: a key, or all."""
        return self.items if key is None else {key: self.items[key]} if key in self.items else {}


class Written(Struct):
    """The answer to a write: the key (a POST may have made it), the version (rule 2), and the value as it is now."""

    key: str
    version: str
    value: Raw | None = None


class Batch(Struct):
    """Changes in commit order, and the mark from which `changes` would go on after them.

    Asking the generator for the next thing says that this one is kept: then, and not before, may the store forget it.
    `reconciled`: how many were found by looking rather than told by the store's log, by what made it look.
    """

    changes: Sequence[Change]
    mark: str
    reconciled: Mapping[str, int] = {}


class Lost(Struct):
    """What happened to these collections since the last mark cannot be told (None: to all): clients need snapshots."""

    reason: str
    mark: str
    collections: tuple[str, ...] | None = None


@runtime_checkable
class Spoken(Protocol):
    """What a store may be besides: its values can be said in a sentence (`?format=text`)."""

    def sentence(self, value: Raw) -> str: ...


class Store(Protocol):
    name: str
    read_only: bool  # what it shows comes from elsewhere: without it the service is poorer, but ready

    async def open(self) -> None:
        """Start without waiting for the store to be up: the calls below raise StoreDown until it is."""

    async def close(self) -> None: ...

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        """What there is: name -> facts worth showing, e.g. `{"key": ["id"]}`. Asks the store: it is its ping, too."""
        ...

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        """The named keys that exist, or all; `after` and `limit` make pages, in the store's own order of keys."""
        ...

    async def put(self, collection: str, key: str | None, value: Raw, condition: Condition) -> Written:
        """Write the whole value; key None: make a new item under a key that the store chooses."""
        ...

    async def patch(self, collection: str, key: str, value: Raw, condition: Condition) -> Written:
        """JSON merge patch (RFC 7396) of an existing item."""
        ...

    async def delete(self, collection: str, key: str, condition: Condition) -> Written: ...

    def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        """Until it is closed, or raises StoreDown; the feed then calls it again with the last mark."""
        ...

    def contains(self, fence: str, version: str) -> bool:
        """Pure and quick: called for each event while a subscription is within a fence."""
        ...
