"""The bundled servers: they start side by side, keep what was acknowledged, end with us, and let nobody else in."""

from __future__ import annotations

import asyncpg
import pytest
import redis.asyncio
from pymongo import AsyncMongoClient

from realtime.embedded import Embedded


@pytest.mark.asyncio
async def test_servers_are_as_the_stores_need_them(servers: Embedded) -> None:
    connection = await asyncpg.connect(servers.urls["postgres"])
    assert await connection.fetchval("show wal_level") == "logical"
    assert await connection.fetchval("show listen_addresses") == ""
    await connection.close()
    async with redis.asyncio.Redis.from_url(servers.urls["redis"]) as client:
        assert (await client.config_get("appendonly"))["appendonly"] == "yes"
    async with AsyncMongoClient(servers.urls["mongo"]) as mongo, await mongo.get_default_database().watch() as stream:
        await mongo.get_default_database()["probe"].insert_one({"_id": "a"})
        assert (await anext(stream))["documentKey"] == {"_id": "a"}
