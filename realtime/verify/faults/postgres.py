"""PostgreSQL as a server: it ends, and its replication slot or its timeline is another one afterwards.

What makes the past unknowable (`slot-dropped`, `slot-lost`, `timeline`) must show as a reset; the rest must not show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from signal import SIGINT, SIGKILL, SIGQUIT
from typing import TYPE_CHECKING

import asyncpg

from ...app import slot_of
from .base import NODES, Fault
from .network import cut
from .servers import down, ended, restart

if TYPE_CHECKING:
    from ..stage import Stage

    Sql = asyncpg.Connection[asyncpg.Record]

NEEDS = HISTORY = frozenset({"postgres"})
LOOK = 0.05  # seconds between two looks at the slot
PATIENCE = 30.0  # seconds for what should take a few

END = "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE active AND slot_name = '{}'"


@asynccontextmanager
async def connected(stage: Stage, database: str | None = None) -> AsyncIterator[Sql]:
    """To the server itself, past the nodes' links; to the database that has the table unless said otherwise."""
    sql = await asyncpg.connect(stage.urls["postgres"], database=database, timeout=5, command_timeout=60)
    try:
        yield sql
    finally:
        await sql.close()


async def until(sql: Sql, query: str, *args: object, seconds: float = PATIENCE) -> None:
    """Wait for a condition, as SQL. Raises TimeoutError with the query."""
    try:
        async with asyncio.timeout(seconds):
            while not await sql.fetchval(query, *args):  # noqa: ASYNC110  a server's state
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise TimeoutError(f"not within {seconds:g} s: {query} {args}") from None


async def carried(stage: Stage, sql: Sql, seconds: float = PATIENCE) -> None:
    """Wait until the feed has carried all that is committed by now: Postgres is told what it may forget."""
    end = await sql.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    query = "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1"
    await until(sql, query, slot_of(stage.urls["postgres"]), end, seconds=seconds)


async def streaming(stage: Stage, sql: Sql) -> str:
    """The feed's slot, once it is in use: there may have been a fault just now."""
    slot = slot_of(stage.urls["postgres"])
    await until(sql, "SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot)
    return slot


@asynccontextmanager
async def walsender_killed(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with connected(stage) as sql:
        await sql.execute(END.format(await streaming(stage, sql)))
        yield


@asynccontextmanager
async def slot_dropped(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with connected(stage) as sql:
        slot = await streaming(stage, sql)
        async with asyncio.timeout(PATIENCE):
            while not await drop(sql, slot):
                pass
        yield


async def drop(sql: Sql, slot: str) -> bool:
    """With its walsender, and before the feed is back; else it is to be tried again."""
    try:
        await sql.execute(f"{END.format(slot)}; SELECT pg_drop_replication_slot('{slot}')")
    except asyncpg.ObjectInUseError:
        return False
    return True


@asynccontextmanager
async def slot_lost(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """The nodes are kept away while the log runs out of the slot's reach, which a small bound makes quick."""
    async with connected(stage) as sql:
        slot = await streaming(stage, sql)
    with cut([node.links["postgres"] for node in stage.nodes], "refuse", reset=True):
        try:
            await restart(stage, "postgres", SIGQUIT, ["-c", "max_slot_wal_keep_size=1MB"])
            async with connected(stage) as sql:
                await outrun(sql, slot)
            yield
        finally:
            await restart(stage, "postgres", SIGQUIT)


async def outrun(sql: Sql, slot: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await sql.fetchval("SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1", slot) != "lost":
            await sql.execute("SELECT pg_logical_emit_message(false, 'verify', '')")  # an empty segment is not left
            await sql.execute("SELECT pg_switch_wal()")
            await sql.execute("CHECKPOINT")


@asynccontextmanager
async def promoted(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """What a failover is to those who come back: the same cluster on another timeline."""
    async with down(stage, "postgres", SIGINT):
        (stage.server_home("postgres") / "data" / "standby.signal").touch()
    async with connected(stage) as sql:
        await sql.execute("SELECT pg_promote()")
    yield


FAULTS = (
    Fault(
        "postgres-stop", "PostgreSQL stops at once (SIGQUIT), and is started again", ended("postgres", SIGQUIT), NEEDS
    ),
    Fault("postgres-kill", "PostgreSQL is killed (-9), and started again", ended("postgres", SIGKILL), NEEDS),
    Fault("walsender-killed", "PostgreSQL ends the replication connection", walsender_killed, NEEDS),
    Fault("slot-dropped", "somebody drops the replication slot", slot_dropped, NEEDS, resets=HISTORY),
    Fault(
        "slot-lost",
        "PostgreSQL has thrown away the log that the slot still needs",
        slot_lost,
        NEEDS | NODES,
        resets=HISTORY,
    ),
    Fault(
        "timeline",
        "PostgreSQL comes back as a standby and is promoted: another timeline",
        promoted,
        NEEDS,
        resets=HISTORY,
    ),
)
