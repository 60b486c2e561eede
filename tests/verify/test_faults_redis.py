"""Each fault of Redis strikes: what it had is gone, older, elsewhere or said again; and lifts: all nodes are well."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import websockets
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Disconnected

from realtime.verify.faults import FAULTS
from realtime.verify.stage import Stage
from tests.verify.struck import STORES, put, staged, struck, until, well

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.expects_logs, pytest.mark.long]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged(2) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def redis(stage: Stage) -> AsyncIterator[Any]:
    """With five items in the collection and no more, and events in each log."""
    await well(stage)
    async with Redis.from_url(stage.urls["redis"]) as redis:
        for key in await items(redis, stage):
            await redis.delete(f"{stage.collection}:{key}")
        for n in range(5):
            await redis.set(f"{stage.collection}:k{n}", json.dumps({"n": n}))
        yield redis


async def items(redis: Any, stage: Stage) -> dict[str, bytes]:
    """Of the five, and what became of them."""
    names = sorted([name async for name in redis.scan_iter(match=f"{stage.collection}:*")])
    keys = {name: name.decode().removeprefix(f"{stage.collection}:") for name in names}
    return {key: await redis.get(name) for name, key in keys.items() if key != "well"}


async def listeners(redis: Any) -> set[str]:
    return {each["id"] for each in await redis.client_list(_type="pubsub")}


# the server -----------------------------------------------------------------------------------------------------------


async def test_a_killed_server_keeps_its_data(stage: Stage, redis: Any) -> None:
    before = await items(redis, stage)
    async with struck("redis-kill", stage):
        with pytest.raises(Disconnected):
            await redis.ping()
    assert len(before) == 5
    assert await items(redis, stage) == before


async def test_an_emptied_server_has_nothing(stage: Stage, redis: Any) -> None:
    async with FAULTS["redis-kill-empty"].strike(stage, Random(1)):
        with pytest.raises(Disconnected):
            await redis.ping()
    assert await items(redis, stage) == {}
    await well(stage)


async def test_a_server_set_back_has_what_it_had(stage: Stage, redis: Any) -> None:
    writing = asyncio.create_task(count_up(redis, f"{stage.collection}:k0"))
    before = await items(redis, stage)
    async with struck("redis-older-copy", stage):
        last = await writing
    after = await items(redis, stage)
    assert 0 < int(after["k0"]) < last
    assert {**after, "k0": before["k0"]} == before


async def count_up(redis: Any, name: str) -> int:
    """Until the server is gone; the last that it took."""
    n = 0
    with suppress(Disconnected):
        while True:
            await redis.set(name, n + 1)
            n += 1
            await asyncio.sleep(0.01)
    return n


async def test_an_error_starts_it_again(stage: Stage, redis: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with struck("redis-kill", stage):
            raise ZeroDivisionError
    assert await redis.ping()


# its data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flushall", "flushdb"])
async def test_everything_is_flushed(stage: Stage, redis: Any, name: str) -> None:
    async with struck(name, stage):
        assert await items(redis, stage) == {}


async def test_everything_is_flushed_while_no_node_sees_it(stage: Stage, redis: Any) -> None:
    async with struck("flushall-feeds-down", stage):
        assert await redis.dbsize() == 0
        taken = [await put(node, f"{store}/{stage.collection}", "k", 1) for node in stage.nodes for store in STORES]
        assert not any(taken)
        sql = await asyncpg.connect(stage.urls["postgres"])  # what others write
        await sql.execute(f"INSERT INTO {stage.collection} VALUES ('others', 1)")
        await sql.close()


async def test_keys_are_renamed(stage: Stage, redis: Any) -> None:
    before = await items(redis, stage)
    async with struck("rename", stage):
        after = await items(redis, stage)
        assert after == {key.replace("k", "renamed-"): value for key, value in before.items()}


async def test_keys_expire(stage: Stage, redis: Any) -> None:
    before = await items(redis, stage)
    async with struck("expiry", stage):
        assert len(await items(redis, stage)) > len(before)

        async def gone() -> bool:
            return await items(redis, stage) == before

        await until(gone)


# its messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pubsub-kill", "pubsub-overflow"])
async def test_who_listens_is_cut_off(stage: Stage, redis: Any, name: str) -> None:
    limits = await redis.config_get("client-output-buffer-limit")
    url = stage.nodes[0].address.replace("http", "ws") + "/v1/ws"
    async with websockets.connect(url) as client:
        channel = f"postgres/{stage.collection}"
        await client.send(json.dumps({"type": "subscribe", "id": 1, "channel": channel}))
        while json.loads(await client.recv())["type"] != "subscribed":
            pass
        before = await listeners(redis)

        async def cut_off() -> bool:
            return bool(before - await listeners(redis))

        async with struck(name, stage):
            await until(cut_off)
    assert await redis.config_get("client-output-buffer-limit") == limits


async def test_messages_are_said_again(stage: Stage, redis: Any) -> None:
    heard: Counter[bytes] = Counter()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(f"realtime:log:postgres/{stage.collection}")
        async with struck("strange-messages", stage), asyncio.timeout(5):
            while len(heard) < 2 or min(heard.values()) < 2:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
                if message is not None:
                    heard[message["data"]] += 1
