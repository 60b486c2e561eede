"""A store goes and comes back: requests are told so; live subscriptions stay, say `source: down`, and heal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from realtime.app import Service
from realtime.embedded import Embedded
from realtime.verify import links
from realtime.verify.proxy import Address, Mode, Proxy
from tests.cluster import Nodes, address, cluster
from tests.test_story import CASES, Case
from tests.wait import until

pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs]


def behind_proxy(store: str, url: str) -> tuple[Address, str]:
    """Where the proxy goes on to, and the URL of what it fronts, with `{port}`."""
    parts = urlsplit(url)
    through = {
        "postgres": f"postgresql://realtime@127.0.0.1:{{port}}{parts.path}?sslmode=disable",
        "mongo": url.replace(f":{parts.port}/", ":{port}/") + "&directConnection=true",
        "redis": "redis://127.0.0.1:{port}",
    }
    return links.upstream(store, url), through[store]


@asynccontextmanager
async def proxied(servers: Embedded, store: str) -> AsyncIterator[tuple[Nodes, Proxy]]:
    """Two nodes that reach one of their stores through a proxy."""
    async with AsyncExitStack() as stack:
        proxies = []

        async def detour(urls: dict[str, str]) -> None:
            upstream, url = behind_proxy(store, urls[store])
            proxies.append(await stack.enter_async_context(Proxy(upstream)))
            urls[store] = url.format(port=proxies[0].port)

        yield await stack.enter_async_context(cluster(servers, detour=detour)), proxies[0]


async def put(node: Service, case: Case, word: str) -> HTTPResponse:
    url = f"{address(node)}/v1/{case.channel}/{case.key}"
    body = json.dumps(case.value(word))
    return await AsyncHTTPClient().fetch(url, method="PUT", body=body, raise_error=False, request_timeout=15)


class Listener:
    """A WebSocket client that never asks again."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection

    async def hear(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await self._connection.recv())
            if message["type"] == kind:
                return message

    async def word(self, case: Case) -> str:
        return str(case.of((await self.hear("event"))["value"]))


@asynccontextmanager
async def listening(node: Service, case: Case) -> AsyncIterator[Listener]:
    async with websockets.connect(address(node).replace("http", "ws") + "/v1/ws") as connection:
        await connection.send(json.dumps({"type": "subscribe", "id": 1, "channel": case.channel, "key": case.key}))
        listener = Listener(connection)
        await listener.hear("subscribed")
        yield listener


@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
@pytest.mark.parametrize("store", CASES)
async def test_a_store_goes_and_comes_back(servers: Embedded, store: str, mode: Mode) -> None:
    case = CASES[store]
    async with proxied(servers, store) as (nodes, proxy), asyncio.timeout(90):
        here, there = nodes
        async with listening(there, case) as client:
            assert (await put(here, case, "before")).code == 200
            assert await client.word(case) == "before"

            proxy.mode = mode
            if mode == "refuse":
                proxy.reset()
            while (await client.hear("source"))["state"] != "down":
                pass
            refused = await put(here, case, "lost")
            assert (refused.code, refused.headers["Retry-After"]) == (503, "2")
            assert json.loads(refused.body)["error"]["code"] == "store_down"
            ready = await AsyncHTTPClient().fetch(f"{address(here)}/readyz", raise_error=False)
            assert ready.code == 503
            assert json.loads(ready.body)["stores"][store]["state"] == "down"

            proxy.mode = "ok"
            proxy.reset()
            while (await client.hear("source"))["state"] != "live":
                pass
            await until(lambda: here.node.sources.states[store].state == "live", 30)
            assert (await put(here, case, "after")).code == 200
            async with asyncio.timeout(30):
                assert await client.word(case) == "after"


async def test_without_the_broker_other_stores_are_read_and_written(servers: Embedded) -> None:
    """Their changes do not come through meanwhile, which is said (`lagging`), and then they do."""
    case = CASES["postgres"]
    async with proxied(servers, "redis") as (nodes, proxy), asyncio.timeout(90):
        here, there = nodes
        async with listening(there, case) as client:
            proxy.mode = "refuse"
            proxy.reset()
            assert (await client.hear("source"))["state"] == "lagging"
            assert (await put(here, case, "meanwhile")).code == 200
            answer = await AsyncHTTPClient().fetch(f"{address(there)}/v1/{case.channel}/{case.key}")
            assert case.of(json.loads(answer.body)) == "meanwhile"
            proxy.mode = "ok"
            assert (await client.hear("source"))["state"] == "live"
            assert await client.word(case) == "meanwhile"
