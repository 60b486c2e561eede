"""Carries each store's changes to the broker, one holder at a time.

A feed is a loop without memory: take the lease, go on from the mark that the last holder kept, publish, keep the mark.
Whatever breaks, it starts again from the mark; the broker ignores what it already has, so that at-least-once here is
exactly once in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from itertools import groupby

from .brokers.base import Broker, Lease, LeaseLost
from .errors import Unavailable
from .metrics import Metrics
from .protocol import Change, is_collection
from .stores.base import Batch, Lost, Store
from .tasks import Tasks, delays

log = logging.getLogger("realtime.feeds")

CALM = 4.0  # seconds, longer than a store that does not answer takes to fail


Tell = Callable[[str, str | None], None]


class Feed:
    """The running task of one store."""

    def __init__(self, store: Store, broker: Broker, metrics: Metrics, tell: Tell = lambda *_: None) -> None:
        """`tell` is called with the store's name and the defect that stops its feed; with None when it runs again."""
        self.store, self._broker, self._metrics, self._tell = store, broker, metrics, tell
        self.running = False  # it is this node that carries the changes, and it has told something
        self.error: str | None = None  # why the feed does not run at present, on the node that should run it
        self._holding = False
        self._taken = "nobody had it"  # how this node came to hold it; empty: as was told already
        self._pauses = delays()
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.start(self._run(), f"feed {self.store.name}")

    async def close(self) -> None:
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            # What has nothing to tell but does not fail for so long is all right: the stream, the wait for the lease.
            calm = asyncio.get_running_loop().call_later(CALM, self._recover)
            try:
                async with self._broker.lease(self.store.name) as lease:
                    await self._hold(lease)
            except (Unavailable, LeaseLost) as error:
                self._say(str(error))
            except Exception as error:  # noqa: BLE001 - a feed must not die of a defect that one change shows
                self._say(f"{type(error).__name__}: {error}", error)
                self._tell(self.store.name, self.error)
            finally:
                calm.cancel()
            await asyncio.sleep(next(self._pauses))

    def _say(self, error: str, defect: Exception | None = None) -> None:
        """Once, however often it is tried."""
        if self.error != error:
            level = logging.WARNING if defect is None else logging.ERROR
            log.log(level, "the feed of %s waits: %s", self.store.name, error, exc_info=defect)
        self.error = error

    async def _hold(self, lease: Lease) -> None:
        name = self.store.name
        holder = self._metrics.feed_holder.labels(name)
        holder.set(1)
        self._holding, self._taken = True, lease.before or self._taken
        if self.error is None:
            self._say_taken()
        try:
            async with aclosing(self.store.changes(lease.mark)) as changes:
                async for found in changes:
                    await self._carry(lease, found)
                    self.running = True
                    self._recover()
        finally:
            self.running = self._holding = False
            holder.set(0)

    async def _carry(self, lease: Lease, found: Batch | Lost) -> None:
        """Publish first, keep the mark after: a crash in between repeats changes, which the broker ignores."""
        name = self.store.name
        if isinstance(found, Lost):
            # At the first start there was nothing to lose.
            level = logging.INFO if lease.mark is None else logging.WARNING
            log.log(level, "new epochs for %s: %s", ", ".join(found.collections or [f"all of {name}"]), found.reason)
            await lease.renew(found.collections, found.reason)
        else:
            for collection, changes in _by_collection(found.changes):
                await self._broker.publish(f"{name}/{collection}", changes)
                self._metrics.published.labels(name).inc(len(changes))
            for by, number in found.reconciled.items():
                self._metrics.reconciles.labels(name, by).inc(number)
        await lease.keep(found.mark)

    def _recover(self) -> None:
        if self.error is not None:
            log.info("the feed of %s runs again", self.store.name)
            self._tell(self.store.name, None)
            self.error, self._pauses = None, delays()
            if self._holding:
                self._say_taken()

    def _say_taken(self) -> None:
        """Once for each time that it comes from another, not for each try of one whose store is down."""
        if self._taken:
            log.info("took over the feed of %s: %s", self.store.name, self._taken)
            self._metrics.takeovers.labels(self.store.name).inc()
            self._taken = ""


def _by_collection(changes: Iterable[Change]) -> Iterable[tuple[str, list[Change]]]:
    """In order within each collection; there is no order across channels to keep."""
    for collection, group in groupby(sorted(changes, key=_collection), key=_collection):
        if is_collection(collection):  # others have no channel, and so no listeners
            yield collection, list(group)


def _collection(change: Change) -> str:
    return change.collection
