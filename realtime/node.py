"""The one object that transports speak to: subscribe, read, write.

A subscription listens first, then reads: the position before the snapshot, so that the snapshot may be ahead of the
position but never behind it. What the snapshot is ahead by, its fence says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec import Raw, Struct

from .brokers.base import Broker
from .channels import Channels
from .config import Limits
from .errors import BrokerDown, Forbidden, ProtocolError, TooLarge, Unauthorized, UnknownChannel
from .hub import Hub
from .items import Items
from .joins import Joins
from .metrics import Metrics
from .protocol import Cursor, Placed, Source, Subscribe, check_key, split_channel
from .rights import Rights
from .session import Session
from .sources import Sources
from .stores.base import Snapshot, Spoken, Store, Written
from .subscription import Subscription

WAIT = 10.0  # seconds that a write waits for its event


class Item(Struct):
    value: Raw
    cursor: Cursor | None  # None while the broker is down


class Node:
    def __init__(
        self, name: str, broker: Broker, stores: Sequence[Store], metrics: Metrics, limits: Limits | None = None
    ) -> None:
        self.name, self.metrics, self._limits = name, metrics, limits or Limits()
        self.stores: Mapping[str, Store] = {store.name: store for store in stores}
        self.items = Items(self._store_of, self._place)
        self._turns = {name: asyncio.Semaphore(self._limits.snapshots) for name in self.stores}
        self.sources = Sources(stores, metrics, self._tell)
        self._broker, self._hub = broker, Hub()
        self._channels = Channels(broker, self._hub, metrics, self._read, self.sources.heard, self.unsubscribe)
        self._joins = Joins(broker, self._channels, metrics, self._read)

    async def open(self) -> None:
        self.metrics.broker_up.set(1)
        await self._broker.open(self._channels.deliver, self._recovered, self._broken)
        self._channels.open()
        await self.sources.open()

    async def close(self) -> None:
        """Ends what runs; the broker and the stores belong to whoever made them."""
        await self.sources.close()
        await self._channels.close()

    # subscribing ----------------------------------------------------------------------------------------------------

    async def subscribe(self, session: Session, request: Subscribe) -> Subscription:
        """Answer with `subscribed`, then events. Leaves no trace when it raises (RealtimeError) or is cancelled."""
        split_channel(request.channel)
        check_key(request.key)
        session.rights.view(request.channel, request.key)  # before it shows whether there is such a channel
        store, _ = self._store_of(request.channel)
        cursor = Cursor.parse(request.cursor) if request.cursor else None
        subscription = self._listen(session, request, store)
        try:
            await self._joins.join(subscription, cursor)
        except BaseException:
            self.unsubscribe(subscription)
            raise
        if (source := self.sources.states[store.name]).state != "live":
            session.send(source)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription.held:
            subscription.session.remove(subscription)
            self.metrics.subscriptions.dec()
            self._hub.remove(subscription)
            self._channels.left(subscription.channel)

    def review(self, session: Session) -> None:
        """Its rights have changed: what it may not see any more ends; what it sees otherwise now, it is shown anew."""
        for subscription in list(session.subscriptions.values()):
            try:
                view = session.rights.view(subscription.channel, subscription.key)
            except (Forbidden, Unauthorized):
                self.unsubscribe(subscription)
                session.send(subscription.gone())
                continue
            if view != subscription.view:
                self._hub.remove(subscription)
                subscription.view = view
                self._hub.add(subscription)
                self._channels.show(subscription, "rights")

    def release(self, session: Session) -> None:
        """The session ends: forget all of it."""
        for subscription in list(session.subscriptions.values()):
            self.unsubscribe(subscription)

    def refresh(self, session: Session) -> None:
        """Queue a newer cursor for each subscription that events passed by."""
        for subscription in session.subscriptions.values():
            channel = self._channels.get(subscription.channel)
            if channel is not None and channel.position is not None:
                before = subscription.cursor
                if subscription.refresh(channel.position, channel.version) != before:
                    session.send(subscription.fresh())

    def _listen(self, session: Session, request: Subscribe, store: Store) -> Subscription:
        subscription = Subscription(session, request, store.contains)
        self._hub.add(subscription)
        self.metrics.subscriptions.inc()
        return subscription

    async def _read(self, name: str, keys: Sequence[str] | None) -> Snapshot:
        """A snapshot of some keys, or of all where they are not too many; so many of a store are read at once."""
        store, collection = self._store_of(name)
        turn = self._turns[store.name]
        if turn.locked():
            self.metrics.limited.labels("snapshots").inc()
        async with turn:
            if keys is not None:
                return await store.snapshot(collection, keys)
            snapshot = await store.snapshot(collection, limit=self._limits.snapshot_items)
        if snapshot.next is not None:
            raise self._too_large(name, "snapshot_items", "items")
        if sum(len(bytes(value)) for value in snapshot.items.values()) > self._limits.snapshot_bytes:
            raise self._too_large(name, "snapshot_bytes", "bytes")
        return snapshot

    def _too_large(self, name: str, limit: str, what: str) -> TooLarge:
        self.metrics.limited.labels(limit).inc()
        most = getattr(self._limits, limit)
        return TooLarge(f"{name} has more than {most} {what}", hint="subscribe to the keys that you need")

    def _tell(self, source: Source) -> None:
        """Each session that listens to the store."""
        channels = (name for name in self._hub.channels() if name.startswith(f"{source.store}/"))
        sessions = {each.session: None for name in channels for each in self._hub.listeners(name)}
        for session in sessions:
            session.send(source)

    # reading and writing --------------------------------------------------------------------------------------------

    async def read(self, rights: Rights, name: str, key: str) -> Item:
        """One value. Raises NotFound."""
        snapshot, position = await self.items.read(rights, name, key)
        return Item(snapshot.items[key], _fenced(position, snapshot.fence))

    def sentence(self, name: str, value: Raw) -> str:
        """The value in words, where its store has them. Raises ProtocolError."""
        store, _ = self._store_of(name)
        if not isinstance(store, Spoken):
            raise ProtocolError(f"{store.name} has no text form", hint="leave ?format=text out")
        return store.sentence(value)

    async def page(self, rights: Rights, name: str, after: str | None, limit: int) -> tuple[Snapshot, Cursor | None]:
        """Up to `limit` items after a key; a cursor only where they are the whole collection."""
        snapshot, position = await self.items.page(rights, name, after, limit)
        whole = after is None and snapshot.next is None
        return snapshot, _fenced(position, snapshot.fence) if whole else None

    async def heard(
        self, rights: Rights, name: str, key: str | None, write: Callable[[], Awaitable[Written]]
    ) -> tuple[Written, Placed | None]:
        """Write, and wait until its event is in the log: the event, or None where none comes or it takes too long."""
        rights.write(name, key)
        async with self._listening(name, key) as (session, woken):
            written = await write()
            if not written.version:
                return written, None
            try:
                async with asyncio.timeout(WAIT):
                    while True:
                        for message in session.take():
                            if isinstance(message, Placed) and _tells_of(message, written):
                                return written, message
                        await woken.wait()
                        woken.clear()
            except TimeoutError:
                return written, None

    @asynccontextmanager
    async def _listening(self, name: str, key: str | None) -> AsyncIterator[tuple[Session, asyncio.Event]]:
        """A session of our own that hears of the key, or of all keys, from now on."""
        store, _ = self._store_of(name)
        woken = asyncio.Event()
        session = Session(woken.set)
        subscription = self._listen(session, Subscribe(0, name, key), store)
        try:
            subscription.follow((await self._channels.follow(name)).place)
            yield session, woken
        finally:
            self.release(session)

    async def _place(self, name: str) -> Cursor | None:
        channel = self._channels.get(name)
        if channel is not None and channel.position is not None:
            return channel.position
        try:
            [position] = await self._broker.positions([name])
        except BrokerDown:
            return None  # what is in the stores can be read all the same
        return position

    def _store_of(self, name: str) -> tuple[Store, str]:
        store, collection = split_channel(name)
        if store not in self.stores:
            raise UnknownChannel(f"no store {store!r}", hint=f"the stores here: {', '.join(self.stores)}")
        return self.stores[store], collection

    def _broken(self) -> None:
        self.metrics.broker_up.set(0)
        self.metrics.breaks.inc()
        self.sources.broken()

    def _recovered(self) -> None:
        """Deliveries may be missing: compare every channel with its history."""
        self.metrics.broker_up.set(1)
        self.sources.recovered()
        self._channels.compare()


def _fenced(position: Cursor | None, fence: str) -> Cursor | None:
    return None if position is None else Cursor(position.epoch, position.offset, fence)


def _tells_of(event: Placed, written: Written) -> bool:
    """Whether this event tells of that write, or of one after it (rule 2 of the stores' contract)."""
    return event.event.key == written.key and event.event.version >= written.version
