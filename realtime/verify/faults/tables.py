"""What others do to a live table behind the service's back: COPY, TRUNCATE, DDL, odd transactions, huge ones.

The rows are the fault's own: their keys begin with `f-`, no writer of the run knows them, and they are gone with the
fault. In them, too, `n` only grows.
"""
# ruff: noqa: S608 - names are of our own making

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from ...app import slot_of
from ...stores.pgcatalog import TRACKED
from ..watch import memory_of
from .base import Fault
from .postgres import carried, connected, until

if TYPE_CHECKING:
    from ..stage import Stage
    from .postgres import Sql

log = logging.getLogger("realtime.verify")

COPIED = 500  # rows
PAD = 15_000  # random bytes, 20,000 characters that do not shrink: stored beside the row
UPDATES = 30
BULK = 10_000  # rows updated at once
HUGE = 1_000_000  # rows inserted at once
CARRIED = 600.0  # seconds for a million changes, on a slow and busy machine

NEEDS = frozenset({"url:postgres"})
OWNED = frozenset({"postgres"})


@asynccontextmanager
async def rows(stage: Stage, dice: Random) -> AsyncIterator[tuple[Sql, str]]:
    """A connection, and what the fault's own keys begin with."""
    own = f"f-{dice.getrandbits(32):08x}"
    async with connected(stage) as sql:
        try:
            yield sql, own
        finally:
            await sql.execute(f"DELETE FROM {stage.collection} WHERE starts_with(key, '{own}')")


async def add(stage: Stage, sql: Sql, key: str, pad: str | None = None) -> None:
    await sql.execute(f"INSERT INTO {stage.collection} VALUES ($1, 1, 'psql', $2)", key, pad)


async def grow(stage: Stage, sql: Sql, key: str, more: str = "") -> None:
    await sql.execute(f"UPDATE {stage.collection} SET n = n + 1{more} WHERE key = $1", key)


@asynccontextmanager
async def copied(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with rows(stage, dice) as (sql, own):
        records = [(f"{own}-{nth}", 1, "copy", None) for nth in range(COPIED)]
        await sql.copy_records_to_table(stage.collection, records=records)
        yield


@asynccontextmanager
async def truncated(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with connected(stage) as sql:
        await sql.execute(f"TRUNCATE {stage.collection}")
        yield


@asynccontextmanager
async def beside_toast(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Most updates leave the large value alone, and then the log does not have it."""
    async with rows(stage, dice) as (sql, own):
        await add(stage, sql, own, b64encode(dice.randbytes(PAD)).decode())
        for nth in range(UPDATES):
            await grow(stage, sql, own, ", pad = reverse(pad)" if nth % 10 == 5 else "")
        yield


@asynccontextmanager
async def rekeyed(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """One row under three keys in turn, which come again."""
    async with rows(stage, dice) as (sql, own):
        await add(stage, sql, f"{own}-0")
        for nth in range(UPDATES):
            await grow(stage, sql, f"{own}-{nth % 3}", f", key = '{own}-{(nth + 1) % 3}'")
        yield


@asynccontextmanager
async def column_added(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Both ends of it change every row's value, and the log has no word about the rows."""
    async with rows(stage, dice) as (sql, own):
        await add(stage, sql, own)
        try:
            await sql.execute(f"ALTER TABLE {stage.collection} ADD COLUMN extra bigint DEFAULT 7")
            await grow(stage, sql, own, ", extra = n")
            yield
        finally:
            await sql.execute(f"ALTER TABLE {stage.collection} DROP COLUMN IF EXISTS extra")


@asynccontextmanager
async def held_open(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Two, here and in another database, both with a number of their own and hence in progress for every snapshot."""
    async with (
        rows(stage, dice) as (sql, own),
        connected(stage) as here,
        connected(stage, database="postgres") as elsewhere,
        here.transaction(),
        elsewhere.transaction(),
    ):
        await add(stage, here, f"{own}-held")
        await elsewhere.execute("SELECT pg_current_xact_id()")
        yield
        await add(stage, sql, f"{own}-free")
        await carried(stage, sql)  # while they are open still


@asynccontextmanager
async def commit_orders(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Who begins first commits last, so that numbers and commits are in different orders."""
    async with rows(stage, dice) as (sql, own), connected(stage) as other:
        await add(stage, sql, f"{own}-first")
        await add(stage, sql, f"{own}-second")
        for _ in range(UPDATES):
            async with sql.transaction():
                await grow(stage, sql, f"{own}-first")
                await grow(stage, other, f"{own}-second")
        yield


@asynccontextmanager
async def second_table(stage: Stage) -> AsyncIterator[tuple[Sql, str]]:
    """Live, but nobody listens: it is for the feed to carry."""
    table = f"{stage.collection}_bulk"
    async with connected(stage) as sql:
        try:
            await sql.execute(f'CREATE TABLE {table} (key text PRIMARY KEY, n bigint, "by" text)')
            await sql.execute(f"INSERT INTO {TRACKED} VALUES ($1)", table)
            live = "SELECT true FROM pg_publication_tables WHERE pubname = $1 AND tablename = $2"
            await until(sql, live, slot_of(stage.urls["postgres"]), table)
            yield sql, table
        finally:
            async with sql.transaction():  # no longer tracked before it is gone
                await sql.execute(f"DELETE FROM {TRACKED} WHERE name = $1", table)
                await sql.execute(f"DROP TABLE IF EXISTS {table}")


@asynccontextmanager
async def bulk_updated(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with second_table(stage) as (sql, table):
        await sql.execute(f"INSERT INTO {table} SELECT 'f-' || i, 1, 'psql' FROM generate_series(1, {BULK}) AS i")
        await sql.execute(f"UPDATE {table} SET n = n + 1")
        yield
        await carried(stage, sql)


@asynccontextmanager
async def million(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with second_table(stage) as (sql, table):
        before = memory(stage)
        await sql.execute(f"INSERT INTO {table} SELECT 'f-' || i, 1, 'psql' FROM generate_series(1, {HUGE}) AS i")
        began = time.monotonic()
        yield
        await carried(stage, sql, CARRIED)
        took = time.monotonic() - began
        log.info("%d changes in %.1f s, %d a second", HUGE, took, HUGE / took)
        log.info("memory of the nodes in MiB: %s before, %s after", before, memory(stage))


def memory(stage: Stage) -> list[int]:
    return [memory_of(node.pid) for node in stage.nodes if node.up]


FAULTS = (
    Fault("copy", f"COPY of {COPIED} rows into the table", copied, NEEDS),
    Fault("truncate", "TRUNCATE of the table", truncated, NEEDS, loses=OWNED, resets=OWNED),
    Fault("toast", "updates beside a large value, which the log then does not have", beside_toast, NEEDS),
    Fault("key-change", "a row's primary key is changed, again and again", rekeyed, NEEDS),
    Fault("add-column", "ALTER TABLE adds a column, and drops it again", column_added, NEEDS, resets=OWNED),
    Fault("long-transaction", "writing transactions stay open, also in another database", held_open, OWNED, hold=3.0),
    Fault("commit-orders", "of two transactions, the second commits first", commit_orders, NEEDS),
    Fault("bulk-update", f"{BULK:,} rows of another live table are updated at once", bulk_updated, NEEDS),
    Fault("million", f"{HUGE:,} rows come into another live table in one transaction", million, OWNED, long=True),
)
