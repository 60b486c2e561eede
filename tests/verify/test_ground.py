"""Before a run each store's collection is made and found to be the nodes'; behind it somebody else's store has none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing

import pytest
from redis.asyncio import Redis

from realtime.embedded import Embedded
from realtime.errors import StartError
from realtime.verify import ground
from realtime.verify.ground import prepared
from realtime.verify.outside import Doubt, Outside
from realtime.verify.stage import Stage, given_stage
from realtime.verify.watch import Watch
from tests.cluster import address, cluster, drop, fresh

# expects_logs: a table that becomes live resets who listens already
pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs]

STORES = ("postgres", "mongo", "redis")


@asynccontextmanager
async def given(servers: Embedded, *wrong: str, nodes: int = 2) -> AsyncIterator[Stage]:
    """A cluster that runs already; of the wrong stores, we are told another address than it."""
    async with AsyncExitStack() as stack:
        others = await fresh(servers)
        stack.push_async_callback(drop, servers, dict(others))
        others["redis"] += "?db=1"
        services = await stack.enter_async_context(cluster(servers, nodes))
        urls = {store: (others if store in wrong else services.urls)[store] for store in STORES}
        yield await stack.enter_async_context(given_stage([address(each) for each in services], urls))


@asynccontextmanager
async def prepare(stage: Stage, said: list[str]) -> AsyncIterator[list[Outside]]:
    with closing(Watch(stage)) as watch:
        async with prepared(stage, watch, said.append) as ways:
            yield ways


async def test_made_known_to_all_nodes_and_taken_away(servers: Embedded) -> None:
    said: list[str] = []
    async with given(servers) as stage:
        async with prepare(stage, said) as ways:
            assert [await way.read() for way in ways] == [{}, {}, {}]
            for way in ways:
                await way.put("k0", {"n": 1, "by": "x"})
            async with Redis.from_url(stage.urls["redis"]) as redis:
                assert await redis.exists(f"{stage.collection}:k0")
        async with Redis.from_url(stage.urls["redis"]) as redis:
            assert not [name async for name in redis.scan_iter(match=f"{stage.collection}:*")]
        assert said == []


@pytest.mark.parametrize(("store", "variable"), [("mongo", "MONGODB_URI"), ("redis", "REDIS_URL")])
async def test_another_server_than_the_nodes_have(servers: Embedded, store: str, variable: str) -> None:
    async with given(servers, store) as stage:
        with pytest.raises(StartError, match=f"^{variable} is not where the nodes have theirs: what they write to"):
            async with prepare(stage, []):
                pass
        assert await Watch(stage).read(f"{store}/{stage.collection}") == {}  # nor is anything left there


async def test_another_database_than_the_nodes_have(servers: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground, "LIVE", 0.5)
    async with given(servers, "postgres") as stage:
        with pytest.raises(
            StartError, match=r"cannot be used: PUT .* 404 .*} \(is DATABASE_URL where the nodes have theirs"
        ):
            async with prepare(stage, []):
                pass


async def test_what_cannot_be_taken_away_is_said(servers: Embedded) -> None:
    said: list[str] = []
    async with given(servers) as stage:
        async with prepare(stage, said) as ways:

            async def fail() -> None:
                raise Doubt("gone")

            ways[2].drop = fail  # type: ignore[method-assign]
        assert said == [f"redis/{stage.collection} could not be removed: gone"]


async def test_without_an_address_it_is_emptied_through_a_node(servers: Embedded) -> None:
    said: list[str] = []
    async with cluster(servers, 1) as [node], given_stage([address(node)], {}) as stage:
        watch = Watch(stage)
        async with prepared(stage, watch, said.append) as ways:
            assert ways == []
        await node.close()
        async with prepared(stage, watch, said.append):
            pass
    assert {line.partition("/")[0] for line in said} == {"mongo", "redis"}
    assert [line.partition(" ")[2] for line in said] == [
        "was emptied; without an address it cannot be removed",
        "was emptied; without an address it cannot be removed",
        "may not have been emptied, as no node answers; without an address it cannot be removed",
        "may not have been emptied, as no node answers; without an address it cannot be removed",
    ]
