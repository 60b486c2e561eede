"""Faults of Redis, which joins the nodes and is a store, too: killed, emptied, set back, its messages lost or repeated.

Here the log itself may be lost, or an older one come back under offsets that clients have seen: then its epoch must be
another. What was written is lost with it, so that nothing is promised of the store `redis`, and of the weather, which
is kept there, but that clients see what there is now.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from signal import SIGKILL
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from ... import redis_pubsub
from ...brokers.keys import LOG
from ..stage import FEEDS
from .base import NODES, Fault, NotStruck, Strike, meanwhile
from .network import cut
from .servers import down, ended

if TYPE_CHECKING:
    from ..stage import Stage

REDIS = frozenset({"redis"})
KNOWN = frozenset({"url:redis"})
LOST = frozenset({"redis", "weather"})  # what is kept in Redis alone
LOGS = frozenset(FEEDS)  # of which Redis has the logs; they begin anew with each run of a server

AOF = "appendonlydir"  # of the data directory: all that this server keeps
WRITTEN = 1.0  # seconds of writes that an older copy lacks
ALL_DOWN = 5.0  # seconds
KEYS = 5  # how many are renamed, or expire
LIFETIME = 0.1, 0.8  # seconds that a key lives which expires
PUBSUB_LIMIT = 1 << 16  # bytes that may wait for a connection
LAST = 20  # events of each channel that are said again
PAUSE = 0.02  # seconds between two


@asynccontextmanager
async def direct(stage: Stage) -> AsyncIterator[Any]:
    """A client of our own. (The annotations of its driver do not know that replies are bytes.)"""
    async with redis_pubsub.client(stage.urls["redis"]) as redis:
        yield redis


# the server -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def emptied(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with down(stage, "redis"):
        shutil.rmtree(stage.server_home("redis") / AOF)
        yield


@asynccontextmanager
async def set_back(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Writes go on behind the copy, also where they are to stop at the fault."""
    data = stage.server_home("redis") / AOF
    with TemporaryDirectory() as kept:
        copy = Path(kept) / AOF
        await _quiet(stage)
        shutil.copytree(data, copy)
        await asyncio.sleep(WRITTEN)
        async with down(stage, "redis"):
            shutil.rmtree(data)
            shutil.copytree(copy, data)
            yield


async def _quiet(stage: Stage) -> None:
    """As its documentation asks for before a copy of its files: no rewrite of them is on, or begins."""
    async with direct(stage) as redis:
        await redis.config_set("auto-aof-rewrite-percentage", 0)
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110  a server's state
            await asyncio.sleep(0.02)


# its data -------------------------------------------------------------------------------------------------------------


def told(command: str) -> Strike:
    """One command, by somebody who knows nothing of us."""

    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        async with direct(stage) as redis:
            await redis.execute_command(*command.split())
        yield

    return strike


@asynccontextmanager
async def flushed_unseen(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """While no node reaches any store. What others write meanwhile is in the snapshots before it is in the new log."""
    links = [link for node in stage.nodes for link in node.links.values()]
    with cut(links, "refuse", reset=True):
        async with direct(stage) as redis:
            await redis.flushall()
        yield


@asynccontextmanager
async def renamed(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Under names that nobody else writes."""
    keys = sorted(key for key in stage.names if key.startswith("k"))
    done: list[str] = []
    async with direct(stage) as redis:
        for key in dice.sample(keys, len(keys)):
            if len(done) < KEYS:
                stage.names.add(other := f"renamed-{key}")
                with suppress(ResponseError):  # it is not there
                    await redis.rename(f"{stage.collection}:{key}", f"{stage.collection}:{other}")
                    done.append(other)
    if not done:
        raise NotStruck("there is no key to rename")
    yield


@asynccontextmanager
async def expired(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """Keys that nobody else writes."""
    async with direct(stage) as redis:
        for number in range(KEYS):
            lifetime = int(1000 * dice.uniform(*LIFETIME))
            stage.names.add(key := f"e{number}")
            await redis.set(f"{stage.collection}:{key}", b'{"by": "nobody"}', px=lifetime)
    yield


# its messages ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def overflown(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """The server cuts off whoever has more waiting than it allows; here, whoever listens."""
    name = "client-output-buffer-limit"
    async with direct(stage) as redis:
        usual = (await redis.config_get(name))[name]
        try:
            await redis.config_set(name, f"pubsub {PUBSUB_LIMIT} 0 0")
            for log, events in await _last_events(redis, stage):
                async with redis.pipeline(transaction=True) as at_once:
                    for _ in range(4 * PUBSUB_LIMIT // len(events[-1])):
                        at_once.publish(log, events[-1])
                    await at_once.execute()
            yield
        finally:
            await redis.config_set(name, usual)


@asynccontextmanager
async def repeated(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with direct(stage) as redis:
        await _last_events(redis, stage)
        async with meanwhile(_repeat(redis, stage, dice), "strange messages"):
            yield


async def _repeat(redis: Any, stage: Stage, dice: Random) -> None:
    """Late, in any order, and twice."""
    while True:
        for log, events in await _last_events(redis, stage):
            for event in dice.sample(2 * events, 2 * len(events)):
                await redis.publish(log, event)
        await asyncio.sleep(PAUSE)


async def _last_events(redis: Any, stage: Stage) -> list[tuple[bytes, list[bytes]]]:
    """The messages of the newest entries of each log. Raises NotStruck where there are none."""
    logs = [f"{LOG}{store}/{stage.collection}".encode() for store in stage.stores]
    entries = [await redis.xrevrange(log, count=LAST) for log in logs]
    found = [(log, [entry[b"event"] for _, entry in each]) for log, each in zip(logs, entries, strict=True) if each]
    if not found:
        raise NotStruck("the logs are empty")
    return found


FAULTS = (
    Fault(
        "redis-kill",
        "Redis is killed (-9), and started again on its append-only file",
        ended("redis", SIGKILL),
        REDIS,
        resets=LOGS,
    ),
    Fault(
        "redis-kill-empty",
        "Redis is killed (-9), and started again without its data",
        emptied,
        REDIS,
        loses=LOST,
        resets=LOGS,
    ),
    Fault(
        "redis-older-copy",
        "Redis is killed (-9), and started again on an older copy",
        set_back,
        REDIS,
        loses=LOST,
        resets=LOGS,
    ),
    Fault("flushall", "FLUSHALL: the logs are gone, too", told("FLUSHALL"), REDIS, loses=LOST, resets=LOGS),
    Fault(
        "flushall-feeds-down",
        "FLUSHALL while no node reaches any store, and others write on",
        flushed_unseen,
        needs=REDIS | NODES,
        hold=ALL_DOWN,
        loses=LOST,
        resets=LOGS,
    ),
    Fault("flushdb", "FLUSHDB, of which Redis tells nobody", told("FLUSHDB"), REDIS, loses=LOST, resets=LOGS),
    Fault("rename", "RENAME of some keys", renamed, KNOWN, loses=frozenset({"redis"})),
    Fault("expiry", "keys that expire", expired, KNOWN),
    Fault("pubsub-kill", "every pub/sub connection is closed by Redis", told("CLIENT KILL TYPE pubsub"), REDIS),
    Fault("pubsub-overflow", "Redis cuts off whoever listens, for reading too slowly", overflown, REDIS),
    Fault("strange-messages", "pub/sub messages come late, in another order, and twice", repeated, KNOWN),
)
