"""From the replication stream to batches of changes: what the Postgres feed carries.

A mark is `<system>-<timeline>:<lsn>:<shape>.<shape>…`: whose log, up to where, and which tables were live then, with
which columns. Postgres is told to forget only what came before a mark that is kept. So a slot that stands beyond our
mark is one of which we cannot know what it has skipped; a table that is not in the mark is one whose past we have not
seen; and one with other columns has another value in every row, of which the log has no word: all are Lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import groupby
from typing import TYPE_CHECKING, Final

from asyncpg import Record
from msgspec import Struct
from msgspec.structs import replace

from ..errors import StoreDown
from ..protocol import Change
from . import pgreads
from .base import Batch, Lost, Snapshot
from .pgcatalog import TRACKED, Catalog
from .pgoutput import Data, Insert, Keepalive, Relation, decode
from .pgpool import Pool
from .pgpublication import Publication
from .pgrereads import Rereads
from .pgrows import Rows
from .pgstream import IN_USE, UNUSABLE, Stream, connected
from .pgtable import Table
from .pgversions import Visible, lsn, lsn_text

if TYPE_CHECKING:
    from .pgpool import Connection

log = logging.getLogger("realtime.stores.postgres")

BATCH: Final = 500  # changes; a larger transaction comes in several batches
POLL: Final = 0.3  # seconds between two looks at a slot that another node has
LOOK: Final = 5.0  # seconds between two looks for new tables, and between two marks while there are no changes

_SLOT: Final = """
SELECT slot_name IS NOT NULL AS there, coalesce(active, false) AS active, confirmed_flush_lsn::text AS kept,
       coalesce(database = current_database() AND plugin = 'pgoutput', false) AS ours,
       coalesce(wal_status = 'lost', false) AS lost, current_setting('wal_level') AS level
FROM (SELECT) AS here LEFT JOIN pg_replication_slots ON slot_name = $1
"""


class Mark(Struct, frozen=True):
    source: str
    place: int
    shapes: frozenset[str]

    def __str__(self) -> str:
        return f"{self.source}:{lsn_text(self.place)}:{'.'.join(sorted(self.shapes))}"

    @classmethod
    def parse(cls, text: str) -> Mark:
        source, place, shapes = text.split(":")
        return cls(source, lsn(place), frozenset(filter(None, shapes.split("."))))


async def changes(
    store: str, url: str, slot: str, pool: Pool, catalog: Catalog, mark: str | None
) -> AsyncGenerator[Batch | Lost, None]:
    """As `Store.changes`. One connection of the pool is held meanwhile, for all that the stream does not say."""
    async with pool.connection() as connection, connected(url, store) as stream:
        run = Changes(store, slot, catalog, stream, connection).run(_parsed(mark))
        async with aclosing(run) as found:
            async for batch in found:
                yield batch


def _parsed(mark: str | None) -> Mark | None:
    """One that makes no sense is that of no log we know."""
    try:
        return Mark.parse(mark) if mark else None
    except ValueError:
        return Mark("", 0, frozenset())


class Changes:
    def __init__(self, store: str, slot: str, catalog: Catalog, stream: Stream, connection: Connection) -> None:
        self._store, self._slot, self._catalog = store, slot, catalog
        self._stream, self._connection = stream, connection
        self._publication = Publication(slot, store, catalog)
        self._rereads = Rereads(self._read)
        self._tables: dict[int, Table] = {}  # in the publication, by oid
        self._tracked = 0  # the oid of `_realtime.tracked`, which is in the publication, too
        self._mark = Mark("", 0, frozenset())
        self._look_at = 0.0  # when to look for new tables

    async def run(self, mark: Mark | None) -> AsyncGenerator[Batch | Lost, None]:
        if lost := await self._start(mark):
            yield Lost(lost, str(self._mark))
        while True:
            self._stream.keep(self._mark.place)  # we are asked for more: what came before is kept
            found = self._joined() or await self._turn()
            for nth, batch in enumerate(found, 1):
                if nth == len(found):
                    self._mark = replace(self._mark, place=self._rows.place)
                batch.mark = str(self._mark)
                yield batch

    # at the start ----------------------------------------------------------------------------------------------------

    async def _start(self, mark: Mark | None) -> str:
        """Stream from the slot, as soon as no other node does. Returns why the past is lost, if it is."""
        source = await self._stream.source()
        said = unusable = False
        while True:
            slot = await self._look_at_slot()
            if not slot["active"]:
                try:
                    return await self._claim(slot, mark, source, unusable=unusable)
                except UNUSABLE:
                    unusable = True
                    continue
                except IN_USE:  # another node was quicker
                    pass
            if not said:
                log.info("%s: another node streams from slot %s; waiting for it", self._store, self._slot)
            said = True
            await asyncio.sleep(POLL)

    async def _look_at_slot(self) -> Record:
        [slot] = await self._connection.fetch(_SLOT, self._slot)
        if slot["level"] != "logical":
            raise StoreDown(
                f"{self._store}: wal_level is {slot['level']}", hint="set wal_level = logical and restart it"
            )
        if slot["there"] and not slot["ours"]:
            raise StoreDown(f"{self._store}: slot {self._slot} belongs to another database or program")
        return slot

    async def _claim(self, slot: Record, mark: Mark | None, source: str, *, unusable: bool) -> str:
        """Begin to stream. Raises IN_USE, UNUSABLE."""
        made = await self._publication.ensure(self._connection)
        await self._look()
        lost = _why_lost(slot, mark, source, made=made, unusable=unusable)
        if not slot["there"] or slot["lost"] or made or unusable:
            if slot["there"]:
                await self._stream.drop_slot(self._slot)
            place = await self._stream.create_slot(self._slot)
        else:
            place = lsn(slot["kept"])
        self._mark = mark if mark and not lost else Mark(source, place, frozenset(self._shapes()))
        await self._stream.start(self._slot, self._mark.place)
        self._rows = Rows(self._mark.place, await self._visible())
        return lost

    # tables ----------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Which tables there are by now, and with which columns."""
        tables = await self._publication.update(self._connection)
        self._tracked = next((oid for oid, table in tables.items() if table.collection == TRACKED), 0)
        tables.pop(self._tracked, None)
        self._tables = tables
        self._look_at = time.monotonic() + LOOK

    def _shapes(self) -> dict[str, str]:
        """The tables' collections, by shape."""
        return {table.shape: table.collection for table in self._tables.values()}

    def _joined(self) -> list[Batch | Lost]:
        """What to say of tables that are live by now and were not at the mark, or were not these."""
        shapes = self._shapes()
        names = sorted(collection for shape, collection in shapes.items() if shape not in self._mark.shapes)
        self._mark = replace(self._mark, shapes=frozenset(shapes))
        return [Lost("live with these columns from now on", "", tuple(names))] if names else []

    # changes ---------------------------------------------------------------------------------------------------------

    async def _turn(self) -> list[Batch | Lost]:
        """What has come in, which may be nothing; it never waits for more once there is something."""
        chunk = await self._stream.read(self._look_at - time.monotonic())
        while chunk is not None:
            for part in chunk:
                await self._take(part)
            chunk = self._stream.ready() if len(self._rows.found) < BATCH else None
        if idle := time.monotonic() >= self._look_at:
            await self._look()
        await self._until_visible()
        found = _batches(await self._rereads.settle(self._rows.drain()))
        return found or ([Batch((), "")] if idle and self._rows.place > self._mark.place else [])

    async def _take(self, part: Data | Keepalive) -> None:
        if isinstance(part, Keepalive):
            self._rows.idle(part.end)
            return
        message = decode(part.payload)
        if isinstance(message, Relation):
            await self._look()
            await self._rows.relate(self._connection, message, self._tables.get(message.oid))
        elif message is not None:
            if isinstance(message, Insert) and message.relation == self._tracked:
                self._look_at = 0.0
            self._rows.take(message)

    async def _until_visible(self) -> None:
        """The stream may be ahead of what a new snapshot sees: a commit is in the log before it is visible."""
        pause = 0.0
        while not all(xid in self._rows.visible for xid in self._rows.xids):
            await asyncio.sleep(pause)
            self._rows.visible = await self._visible()
            pause = min(0.05, 2 * pause or 0.001)

    async def _visible(self) -> Visible:
        return Visible.parse(await self._connection.fetchval("SELECT pg_current_snapshot()::text"))

    async def _read(self, collection: str, keys: list[str]) -> Snapshot:
        return await self._catalog.use(
            self._connection, collection, lambda table: pgreads.snapshot(self._connection, table, keys, None, None)
        )


def _why_lost(slot: Record, mark: Mark | None, source: str, *, made: bool, unusable: bool) -> str:
    if not slot["there"]:
        return "the replication slot was missing"
    if slot["lost"] or unusable:
        return "the replication slot had lost its log"
    if made:
        return "the publication was missing"
    if mark is None:
        return "no mark was kept"
    if mark.source != source:
        return "the mark is not of this cluster and timeline"
    return "the replication slot is beyond the mark" if mark.place < lsn(slot["kept"]) else ""


def _batches(found: list[Change | Lost]) -> list[Batch | Lost]:
    """Changes in bounded batches, in order with what is lost; the marks come later."""
    batches: list[Batch | Lost] = []
    for kind, run in groupby(found, key=type):
        items = list(run)
        if kind is Lost:
            batches += [item for item in items if isinstance(item, Lost)]
        else:
            changes = [item for item in items if isinstance(item, Change)]
            batches += [Batch(changes[start : start + BATCH], "") for start in range(0, len(changes), BATCH)]
    return batches
