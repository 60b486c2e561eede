"""Items of the stores, read and written by somebody: what their rights do not give is refused, and nothing tells of it.

Who does not see all of an item cannot be trusted with its whole: a PUT would wipe out columns that they do not know of,
and an ETag, a condition or a store's own words would tell of them. So they write parts, and get answers without those.
Rights come before everything else: whether there is such a store, collection or key, a refusal does not say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Raw

from .errors import Conflict, Duplicate, Forbidden, NotFound, RealtimeError, Refused, TooLarge, Unauthorized
from .protocol import Condition, Cursor, check_key, split_channel
from .rights import Rights, View
from .stores.base import Snapshot, Store, Written

LOOKED_THROUGH = 10_000  # items, for one page of those that are seen

Write = Callable[[Store, str], Awaitable[Written]]
Place = Callable[[str], Awaitable[Cursor | None]]


class Items:
    """`store_of` a channel: its store and collection; it raises UnknownChannel.

    `place`: where a channel is, if that can be known; it is asked first, so that what is read may be ahead of it but
    never behind.
    """

    def __init__(self, store_of: Callable[[str], tuple[Store, str]], place: Place) -> None:
        self._store_of, self._place = store_of, place

    async def read(self, rights: Rights, name: str, key: str) -> tuple[Snapshot, Cursor | None]:
        """Of one key. Raises NotFound."""
        view = _view(rights, name, key)
        store, collection = self._store_of(name)
        position = await self._place(name)
        snapshot = await store.snapshot(collection, [key])
        if key not in snapshot.items:
            raise NotFound(f"no key {key!r} in {name}")
        return _seen(view, snapshot), position

    async def page(self, rights: Rights, name: str, after: str | None, limit: int) -> tuple[Snapshot, Cursor | None]:
        """Up to `limit` items after a key."""
        view = _view(rights, name)
        store, collection = self._store_of(name)
        position = await self._place(name)
        if view is None:
            return await store.snapshot(collection, after=after, limit=limit), position
        return await _seen_page(view, store, collection, after, limit), position

    async def put(self, rights: Rights, name: str, key: str | None, value: Raw, condition: Condition) -> Written:
        rights.write(*_named(name, key))
        hidden = _hidden(rights, name, key)
        if hidden and key is not None:
            raise Forbidden(f"{name} has columns that you do not see: a whole value would wipe them out", hint="PATCH")
        _check_columns(name, value, hidden)
        return await self._write(hidden, name, condition, lambda s, c: s.put(c, key, value, condition))

    async def patch(self, rights: Rights, name: str, key: str, value: Raw, condition: Condition) -> Written:
        rights.write(*_named(name, key))
        hidden = _hidden(rights, name, key)
        _check_columns(name, value, hidden)
        return await self._write(hidden, name, condition, lambda s, c: s.patch(c, key, value, condition))

    async def delete(self, rights: Rights, name: str, key: str, condition: Condition) -> Written:
        rights.write(*_named(name, key))
        hidden = _hidden(rights, name, key)
        return await self._write(hidden, name, condition, lambda s, c: s.delete(c, key, condition))

    async def _write(self, hidden: frozenset[str] | None, name: str, condition: Condition, write: Write) -> Written:
        if hidden is not None and not hidden:
            return await write(*self._store_of(name))
        if hidden is None and condition:
            raise Forbidden(f"a condition tells of {name}, which you may not read", hint="leave it out")
        if condition.etags:
            raise Forbidden(f"an ETag tells of columns of {name} that you do not see", hint="leave it out, or send *")
        try:
            written = await write(*self._store_of(name))
        except (Refused, Duplicate, NotFound, Conflict) as error:
            raise _silent(error, name) from None
        return Written(written.key, written.version)


def _named(name: str, key: str | None) -> tuple[str, str | None]:
    split_channel(name)
    check_key(key)
    return name, key


def _view(rights: Rights, name: str, key: str | None = None) -> View | None:
    split_channel(name)
    check_key(key)
    return rights.view(name, key)


def _seen(view: View | None, snapshot: Snapshot) -> Snapshot:
    return snapshot if view is None else Snapshot(dict(view.items(snapshot.items)), snapshot.fence, snapshot.next)


async def _seen_page(view: View, store: Store, collection: str, after: str | None, limit: int) -> Snapshot:
    """Of those that are seen; `next` is one of them."""
    looked, page = 0, Snapshot({})
    while looked < LOOKED_THROUGH:
        part = await store.snapshot(collection, after=after, limit=limit)
        page.fence = page.fence or part.fence  # of the first: what the others are ahead by is told again
        seen = list(_seen(view, part).items.items())
        room = limit - len(page.items)
        page.items |= dict(seen[:room])
        if len(seen) > room or (len(seen) == room and part.next is not None):
            page.next = next(reversed(page.items))
            return page
        if part.next is None:
            return page
        looked, after = looked + limit, part.next
    raise TooLarge(
        f"more than {LOOKED_THROUGH} items of {store.name}/{collection} to look through",
        hint="ask for the keys you need",
    )


def _hidden(rights: Rights, name: str, key: str | None) -> frozenset[str] | None:
    """The columns of the key that they do not see; None: they may not read it at all."""
    try:
        view = rights.view(name, key)
    except (Forbidden, Unauthorized):
        return None
    return frozenset() if view is None else view.missing


def _check_columns(name: str, value: Raw, hidden: frozenset[str] | None) -> None:
    if hidden:
        members = msgspec.json.decode(bytes(value))
        if named := sorted(hidden.intersection(members)) if isinstance(members, dict) else []:
            raise Forbidden(f"you may not write {named[0]!r} of {name}")


def _silent(error: RealtimeError, name: str) -> RealtimeError:
    """The same, without what it shows of the item."""
    if isinstance(error, Conflict):
        return Conflict(f"the condition does not hold in {name}", current=None)
    return type(error)(f"{name} did not take it", hint="what is there is not told to who may not read all of it")
