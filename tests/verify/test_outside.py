"""Each way past the service: it writes, reads and deletes, is in doubt while its server is away, and finds it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from realtime.embedded import Embedded
from realtime.errors import NotFound
from realtime.verify.outside import Doubt, Outside, outside
from realtime.verify.proxy import Proxy
from realtime.verify.stage import given_stage
from tests.cluster import drop, fresh
from tests.test_outage import behind_proxy
from tests.wait import until

pytestmark = pytest.mark.asyncio

STORES = ["postgres", "mongo", "redis"]


@asynccontextmanager
async def past(servers: Embedded, store: str) -> AsyncIterator[tuple[Outside, dict[str, str], list[Proxy]]]:
    """One way past the service, through the first of two proxies; and the addresses, of which it reads its own."""
    async with AsyncExitStack() as stack:
        urls = await fresh(servers)
        stack.push_async_callback(drop, servers, dict(urls))
        upstream, url = behind_proxy(store, urls[store])
        proxies = [await stack.enter_async_context(Proxy(upstream)) for _ in range(2)]
        urls = {store: url.format(port=proxies[0].port), "second": url.format(port=proxies[1].port)}
        [way] = outside(await stack.enter_async_context(given_stage([], urls)))
        await way.open()
        stack.push_async_callback(way.close)
        await way.make()
        yield way, urls, proxies


@pytest.mark.parametrize("store", STORES)
async def test_one_collection_past_the_service(servers: Embedded, store: str) -> None:
    async with past(servers, store) as (way, _, _):
        await way.put("a", {"n": 1, "by": "x", "pad": "é" * 9})
        await way.put("a", {"n": 2, "by": "x"})
        await way.put("b", {"n": 1, "by": "x"})
        await way.delete("b")
        with pytest.raises(NotFound):
            await way.delete("b")
        row = {"key": "a", "pad": None} if store == "postgres" else {}
        assert await way.read() == {"a": {"n": 2, "by": "x", **row}}
        await way.drop()
        if store != "postgres":
            assert await way.read() == {}


async def test_a_dropped_table_is_no_longer_tracked(servers: Embedded) -> None:
    async with past(servers, "postgres") as (way, urls, _):
        connection = await asyncpg.connect(urls["postgres"])
        try:
            assert await connection.fetchval("SELECT count(*) FROM _realtime.tracked") == 1
            await way.drop()
            assert await connection.fetchval("SELECT count(*) FROM _realtime.tracked") == 0
            assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'verify%'") == 0
        finally:
            await connection.close()


@pytest.mark.parametrize("store", STORES)
async def test_a_lost_server_is_a_doubt_and_its_return_is_noticed(servers: Embedded, store: str) -> None:
    async with past(servers, store) as (way, _, [proxy, _]):
        await way.put("a", {"n": 1, "by": "x"})
        proxy.mode = "refuse"
        proxy.reset()
        with pytest.raises(Doubt):
            await way.put("a", {"n": 2, "by": "x"})
        with pytest.raises(Doubt):
            await way.read()
        proxy.mode = "ok"
        await way.put("b", {"n": 3, "by": "x"})
        assert (await way.read())["b"]["n"] == 3
        await way.close()
        await until(lambda: not proxy.connections)


async def test_mongo_may_come_back_on_another_port(servers: Embedded) -> None:
    async with past(servers, "mongo") as (way, urls, [first, second]):
        await way.put("a", {"n": 1, "by": "x"})
        first.mode = "refuse"
        first.reset()
        with pytest.raises(Doubt):
            await way.read()
        urls["mongo"] = urls["second"]
        await asyncio.gather(*(way.put(key, {"n": 2, "by": "x"}) for key in "abc"))
        assert second.connections
        await way.close()
        await until(lambda: not second.connections)
