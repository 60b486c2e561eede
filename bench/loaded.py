"""The part of `latency` that has many writes at a time: a thousand sessions, each watching a key of its own.

Writers that know nothing of the service write at an even pace, and put the moment before each write into the value; the
receivers compare it with their own clock, which is the same one. So a write that waits in its store counts as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any

import asyncpg
import pymongo
from redis.asyncio import Redis

from bench.nodes import say
from bench.receivers import Doors, get, receivers, subscribe
from realtime.embedded import Embedded

TABLE = "watched"
WRITERS = 16  # at a time
WARM = 1.0  # seconds before the count, at most

Row = dict[str, Any]
Write = Callable[[int, str], Awaitable[object]]


@asynccontextmanager
async def writers(own: Embedded) -> AsyncIterator[Mapping[str, Write]]:
    """By store; each sets a key to a text."""
    rows = await asyncpg.create_pool(own.urls["postgres"], min_size=WRITERS, max_size=WRITERS)
    mongo = pymongo.AsyncMongoClient[Row](own.urls["mongo"])
    documents, keys = mongo.get_default_database()[TABLE], Redis.from_url(own.urls["redis"])
    try:
        yield {
            "redis": lambda key, text: keys.set(f"{TABLE}:{key}", f'"{text}"'),
            "postgres": lambda key, text: rows.execute(f"UPDATE {TABLE} SET at = $2 WHERE id = $1", key, text),
            "mongo": lambda key, text: documents.update_one({"_id": key}, {"$set": {"at": text}}, upsert=True),
        }
    finally:
        await rows.close()
        await mongo.close()
        await keys.aclose()


async def prepare(own: Embedded, sessions: int) -> None:
    """Before there is a node."""
    connection = await asyncpg.connect(own.urls["postgres"])
    await connection.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, at text)")
    await connection.execute(f"INSERT INTO {TABLE} SELECT generate_series(0, {sessions - 1}), ''")
    await connection.close()


def clients(transport: str, base: str, channel: str, sessions: int) -> tuple[Doors, list[bytes]]:
    if transport == "websocket":
        return Doors(base, tail=-1), [subscribe(channel, str(key)) for key in range(sessions)]
    path = f"/v1/{channel}/"
    if transport == "sse":
        doors = Doors(base, kind="sse", mark="event: subscribed", tail=-1)
        return doors, [get(f"{path}{key}", "text/event-stream") for key in range(sessions)]
    return Doors(base, kind="poll", mark="cursor", tail=-1), [get(f"{path}{key}?wait=25") for key in range(sessions)]


async def _write(
    write: Write, worker: int, rate: float, sessions: int, written: list[int], over: asyncio.Event
) -> None:
    """One writer's share, at an even pace, as far as its store keeps up. (Cancelled, some drivers would go on.)"""
    loop, number = asyncio.get_running_loop(), worker
    begin = loop.time() + worker / rate
    while not over.is_set():
        await asyncio.sleep(max(0.0, begin - loop.time()))
        await write(number % sessions, f"@{monotonic_ns()}@")
        written[0] += 1
        number += WRITERS
        begin += WRITERS / rate


async def measure(
    program: Path, base: str, store: str, write: Write, transport: str, rate: int, sessions: int, seconds: float
) -> Row:
    for key in range(sessions):  # a poll is answered with a key that is there
        await write(key, "")
    written = [0]
    async with receivers(program, *clients(transport, base, f"{store}/{TABLE}", sessions)) as load:
        await load.live()
        over = asyncio.Event()
        writing = [
            asyncio.create_task(_write(write, each, rate, sessions, written, over), name=f"writer {each}")
            for each in range(WRITERS)
        ]
        try:
            await asyncio.sleep(min(WARM, seconds))
            before, count = await load.report(), written[0]
            await asyncio.wait(writing, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            after, count = await load.report(), written[0] - count
        finally:
            over.set()
            await asyncio.gather(*writing)
    took, delays = after.clock - before.clock, after.delays
    say(f"{store} over {transport}, {rate}/s: p99 {delays.p99 * 1000:.1f} ms")
    return {
        "store": store,
        "client": transport,
        "asked_per_second": rate,
        "written_per_second": count / took,
        "heard_per_second": delays.n / took,
        "closed": after.closed,
        "p50_ms": delays.p50 * 1000,
        "p95_ms": delays.p95 * 1000,
        "p99_ms": delays.p99 * 1000,
        "max_ms": delays.max * 1000,
    }
