"""Each fault of MongoDB on a real cluster: it does what it says, and all is right behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from pymongo.errors import PyMongoError

from realtime.verify.faults import FAULTS, mongo
from realtime.verify.faults.mongo import direct
from realtime.verify.stage import Stage

from .struck import staged, struck, well, written
from .watching import watching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.expects_logs, pytest.mark.long]

NAMES = [fault.name for fault in mongo.FAULTS]
DOWN = {"mongo-stop", "mongo-kill"}
RESETS = {"mongo-history-lost", "mongo-dropped", "mongo-renamed"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged(2) as opened:
        await well(opened)
        yield opened


async def count(stage: Stage, query: dict[str, Any], suffix: str = "") -> int:
    async with direct(stage) as database:
        return await database[f"{stage.collection}{suffix}"].count_documents(query)


OWN = {"_id": {"$regex": "^f-"}}
# What a fault does that the documents show, as how many there are before it and while it is on.
EFFECTS: dict[str, tuple[dict[str, Any], str, int, int]] = {
    "mongo-dropped": ({"_id": "before"}, "", 1, 0),
    "mongo-renamed": ({"_id": "before"}, "_away", 0, 1),
    "mongo-many": (OWN, "", 0, 300),
    "mongo-updates": ({**OWN, "by": "update_many", "n": 2}, "", 0, 299),
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_fault_does_what_it_says_and_all_is_right_behind_it(stage: Stage, name: str) -> None:
    query, suffix, before, meanwhile = EFFECTS.get(name, ({"_id": "nobody"}, "", 0, 0))
    async with direct(stage) as database:
        await database[stage.collection].replace_one({"_id": "before"}, {"n": 1}, upsert=True)
    async with watching(stage, "mongo") as client:
        assert await count(stage, query, suffix) == before
        async with written(stage), struck(name, stage):
            if name in DOWN:
                with pytest.raises(PyMongoError):
                    await count(stage, query)
            else:
                assert await count(stage, query, suffix) == meanwhile
        await client.agrees()
        assert client.violations == []
        assert (client.resets > 0) is (name in RESETS)
    assert await restored(stage)


async def restored(stage: Stage) -> bool:
    """No document and no collection is left of a fault, and the server keeps its history again."""
    async with direct(stage) as database:
        names = await database.list_collection_names()
        assert [name for name in names if name.startswith(stage.collection)] == [stage.collection]
    return await count(stage, OWN) == 0


@pytest.mark.parametrize("name", ["mongo-kill", "mongo-history-lost", "mongo-renamed", "mongo-updates"])
async def test_all_is_restored_behind_an_error(stage: Stage, name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with FAULTS[name].strike(stage, Random(1)):
            raise ZeroDivisionError
    await well(stage)
    assert await restored(stage)
