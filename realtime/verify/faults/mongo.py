"""MongoDB: its server ends, its history ends, a collection goes; and what others do to many documents at once.

The documents are the fault's own: their `_id` begins with `f-`, no writer of the run knows them, and they are gone
with the fault. In them, too, `n` only grows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any

from pymongo import AsyncMongoClient

from ..outside.documents import DATABASE
from .base import NODES, Fault
from .network import cut
from .servers import ended, restart

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase

    from ..stage import Stage

    Database = AsyncDatabase[dict[str, Any]]

MANY = 300  # documents written at once
UPDATES = 30
HISTORY = 200  # changes that the server keeps, where it is to forget
FORGET = "secantusAdmin.pruneOplog"  # else it would do so at some later time

NEEDS = frozenset({"url:mongo"})
OWNED = frozenset({"mongo"})


@asynccontextmanager
async def direct(stage: Stage) -> AsyncIterator[Database]:
    """Of the server itself, past the nodes' proxies."""
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(stage.urls["mongo"], serverSelectionTimeoutMS=5000, socketTimeoutMS=30_000) as client:
        yield client.get_default_database(DATABASE)


@asynccontextmanager
async def history_lost(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """The nodes are kept away until what they have not seen is more than the server remembers."""
    with cut([node.links["mongo"] for node in stage.nodes], "refuse", reset=True):
        try:
            await restart(stage, "mongo", SIGTERM, ["--oplog-max-entries", str(HISTORY)])
            async with direct(stage) as database:
                noise = database[f"{stage.collection}_noise"]
                await noise.insert_many([{} for _ in range(2 * HISTORY)])
                await noise.drop()
                await database.client.admin.command(FORGET)
            yield
        finally:
            await restart(stage, "mongo", SIGTERM)


@asynccontextmanager
async def dropped(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with direct(stage) as database:
        await database.drop_collection(stage.collection)
        yield


@asynccontextmanager
async def documents(stage: Stage, dice: Random) -> AsyncIterator[tuple[Any, list[str]]]:
    """The collection, with documents of the fault's own, and what those are called."""
    own = f"f-{dice.getrandbits(32):08x}"
    names = [f"{own}-{nth}" for nth in range(MANY)]
    async with direct(stage) as database:
        collection = database[stage.collection]
        try:
            await collection.insert_many([{"_id": name, "n": 1, "by": "insert_many"} for name in names])
            yield collection, names
        finally:
            await collection.delete_many({"_id": {"$regex": f"^{own}"}})


@asynccontextmanager
async def renamed(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """What is written meanwhile makes the collection anew, and is lost when the other one comes back."""
    away = f"{stage.collection}_away"
    async with documents(stage, dice), direct(stage) as database:
        await database[stage.collection].rename(away)
        try:
            yield
        finally:
            await database[away].rename(stage.collection, dropTarget=True)


@asynccontextmanager
async def many(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with documents(stage, dice):
        yield


@asynccontextmanager
async def updated(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with documents(stage, dice) as (collection, names):
        for _ in range(UPDATES):
            await collection.update_one({"_id": names[0]}, {"$inc": {"n": 1}})
        await collection.update_many({"_id": {"$in": names}}, {"$inc": {"n": 1}, "$set": {"by": "update_many"}})
        yield


FAULTS = (
    Fault("mongo-stop", "MongoDB is stopped, and started again", ended("mongo", SIGTERM), OWNED),
    Fault("mongo-kill", "MongoDB is killed (-9), and started again", ended("mongo", SIGKILL), OWNED),
    Fault(
        "mongo-history-lost",
        "MongoDB has forgotten changes that nobody has seen",
        history_lost,
        OWNED | NODES,
        resets=OWNED,
    ),
    Fault("mongo-dropped", "the collection is dropped", dropped, NEEDS, loses=OWNED, resets=OWNED),
    Fault("mongo-renamed", "the collection is renamed, and back again", renamed, NEEDS, loses=OWNED, resets=OWNED),
    Fault("mongo-many", f"{MANY} documents are inserted at once, and deleted at once", many, NEEDS),
    Fault("mongo-updates", "documents are updated in place by another program", updated, NEEDS),
)
