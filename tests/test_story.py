"""The story that everything is for, told for each store over each transport, on real servers and two nodes.

A write by REST on one node, and one behind the service's back, arrive at a client of the other node; the client drops,
misses writes, resumes, and has missed nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import pymongo
import pytest
import redis
import websockets
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from realtime.app import Service
from realtime.embedded import Embedded
from tests.cluster import address, cluster
from tests.stores.pg import psql

pytestmark = pytest.mark.asyncio


# three transports, one face ------------------------------------------------------------------------------------------


class Client(Protocol):
    """Watches one key: each `next` is the next value, None for a delete; `cursor` is where it is."""

    cursor: str | None

    async def next(self) -> Any: ...


class Socket:
    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection
        self.cursor: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, base: str, channel: str, key: str, cursor: str | None) -> AsyncIterator[Socket]:
        async with websockets.connect(base.replace("http", "ws") + "/v1/ws") as connection:
            client = cls(connection)
            request = {"type": "subscribe", "id": 1, "channel": channel, "key": key}
            await connection.send(json.dumps(request | ({"cursor": cursor} if cursor else {})))
            client.cursor = (await client._message("subscribed"))["cursor"]
            yield client

    async def next(self) -> Any:
        event = await self._message("event")
        self.cursor = event["cursor"]
        return event.get("value")

    async def _message(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await self._connection.recv())
            if message["type"] == kind:
                return message


class EventSource:
    def __init__(self) -> None:
        self._blocks: asyncio.Queue[str] = asyncio.Queue()
        self._rest = ""
        self.cursor: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, base: str, channel: str, key: str, cursor: str | None) -> AsyncIterator[EventSource]:
        self = cls()
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor else {})
        http = AsyncHTTPClient(force_instance=True)
        url = f"{base}/v1/{channel}/{key}"
        request = HTTPRequest(url, headers=headers, streaming_callback=self._take, request_timeout=60)
        answer = asyncio.ensure_future(http.fetch(request))
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.cursor = (await self._event({"subscribed"}))["id"]
        yield self
        http.close()

    def _take(self, chunk: bytes) -> None:
        *blocks, self._rest = (self._rest + chunk.decode()).split("\n\n")
        for block in blocks:
            self._blocks.put_nowait(block)

    async def next(self) -> Any:
        event = await self._event({"put", "delete"})
        self.cursor = event["id"]
        return json.loads(event["data"]).get("value")

    async def _event(self, names: set[str]) -> dict[str, str]:
        while True:
            fields = dict(line.split(": ", 1) for line in (await self._blocks.get()).split("\n"))
            if fields.get("event") in names:
                return fields


class Poll:
    def __init__(self, url: str, cursor: str | None) -> None:
        self._url, self.cursor = url, cursor
        self._http = AsyncHTTPClient()
        self._events: list[dict[str, Any]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, base: str, channel: str, key: str, cursor: str | None) -> AsyncIterator[Poll]:
        self = cls(f"{base}/v1/{channel}/{key}", cursor)
        if cursor is None:
            await self._ask()
        yield self

    async def next(self) -> Any:
        while not self._events:
            await self._ask()
        return self._events.pop(0).get("value")

    async def _ask(self) -> None:
        cursor = f"&cursor={self.cursor}" if self.cursor else ""
        body = json.loads((await self._http.fetch(f"{self._url}?wait=20{cursor}")).body)
        self.cursor, self._events = body["cursor"], body["events"]


TRANSPORTS: dict[str, Any] = {"websocket": Socket, "sse": EventSource, "poll": Poll}


# four stores, one face -----------------------------------------------------------------------------------------------


class Case:
    """A key of a store, what to write to it, and how somebody else does that. `of` picks what tells values apart."""

    def __init__(self, channel: str, key: str, value: Callable[[str], Any], of: Callable[[Any], Any]) -> None:
        self.channel, self.key, self.value, self.of = channel, key, value, of


CASES = {
    "postgres": Case("postgres/entries", "7", lambda word: {"slug": "s", "title": word}, lambda row: row["title"]),
    "mongo": Case("mongo/things", "seven", lambda word: {"word": word, "deep": [1]}, lambda it: it["word"]),
    "redis": Case("redis/sensors", "7", lambda word: {"word": word}, lambda it: it["word"]),
}


async def behind(store: str, urls: dict[str, str], word: str) -> None:
    """Write what the case's value for `word` is, without the service: psql, a raw Mongo driver, a Redis client."""
    if store == "postgres":
        await psql(urls["postgres"], f"UPDATE entries SET title = '{word}' WHERE id = 7")
    elif store == "mongo":
        await asyncio.to_thread(_update_document, urls["mongo"], word)
    else:
        await asyncio.to_thread(_set_key, urls["redis"], word)


def _update_document(url: str, word: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client.get_default_database()["things"].update_one({"_id": "seven"}, {"$set": {"word": word}})


def _set_key(url: str, word: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("sensors:7", json.dumps({"word": word}))


async def write(service: Service, case: Case, word: str) -> None:
    body = json.dumps(case.value(word))
    await AsyncHTTPClient().fetch(f"{address(service)}/v1/{case.channel}/{case.key}", method="PUT", body=body)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("store", CASES)
async def test_a_write_on_one_node_reaches_a_client_of_another(servers: Embedded, store: str, transport: str) -> None:
    case = CASES[store]
    async with cluster(servers) as nodes, asyncio.timeout(60):
        here, there = nodes

        def watch(node: Service, cursor: str | None) -> Any:
            return TRANSPORTS[transport].open(address(node), case.channel, case.key, cursor)

        async with watch(there, None) as client:
            await write(here, case, "by REST")
            assert case.of(await client.next()) == "by REST"
            await behind(store, nodes.urls, "behind its back")
            assert case.of(await client.next()) == "behind its back"
            cursor = client.cursor
        words = ["missed", "and missed"]
        for word in words:  # while the client is away
            await write(here, case, word)
        async with watch(here, cursor) as client:  # and comes back to another node
            heard: list[str] = []
            while heard[-1:] != words[-1:]:
                heard.append(case.of(await client.next()))
            assert heard == words
            answer = await AsyncHTTPClient().fetch(f"{address(there)}/v1/{case.channel}/{case.key}", method="DELETE")
            assert answer.code == 200
            assert await client.next() is None


async def test_the_weather_moves_on_every_node_over_every_transport(servers: Embedded) -> None:
    async def watch(node: Service, transport: Any) -> None:
        async with transport.open(address(node), "weather/current", "berlin", None) as client:
            first, second = await client.next(), await client.next()
            assert first["city"] == "Berlin"
            assert first != second
            assert first["provider"] == "simulated"
            cursor = client.cursor
        async with transport.open(address(node), "weather/current", "berlin", cursor) as client:
            assert (await client.next())["city"] == "Berlin"

    async with cluster(servers) as nodes, asyncio.timeout(60):
        await asyncio.gather(*(watch(node, transport) for node in nodes for transport in TRANSPORTS.values()))


async def test_a_feed_is_taken_over(servers: Embedded) -> None:
    """The holder goes without a word; the other node carries on."""
    async with cluster(servers) as nodes, asyncio.timeout(60):
        for name in ("redis", "mongo", "postgres"):
            holders = [feed for service in nodes for feed in service.feeds if feed.store.name == name and feed.running]
            assert len(holders) == 1
        async with AsyncExitStack() as stack:
            clients = {
                store: await stack.enter_async_context(Socket.open(address(nodes[1]), case.channel, case.key, None))
                for store, case in CASES.items()
            }
            for feed in nodes[0].feeds:
                await feed.close()
            for store, case in CASES.items():
                await write(nodes[0], case, f"after {store}")
                assert case.of(await clients[store].next()) == f"after {store}"
