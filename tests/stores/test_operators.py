"""What means something to a store's own language is text to it, or is refused: through a node, on the real servers.

Names and values are written by REST as any client can write them; beside each stands an item that none of them may
touch, and what nobody asked for must still not be there.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio
import websockets
from tornado.httpclient import AsyncHTTPClient

from realtime.app import Service
from realtime.config import Limits
from realtime.embedded import Embedded
from tests.cluster import Nodes, address, cluster

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

OPERATORS = ["$where", "$gt", "$ne", "$set", "$expr", "$function", "$in", "$oid", "$date", "$ref", "$", "$$ROOT"]
PLAIN = ["a.b", "a.$b", ".", "a.", "", "constructor", "__proto__", "ä", "\U0001f600", "a'b", 'a"b', "id; --"]


class Client:
    """Asks a node, and reads the answer's JSON."""

    def __init__(self, node: Service) -> None:
        self.node, self._http = node, AsyncHTTPClient(force_instance=True)

    async def ask(self, method: str, path: str, value: object = None) -> tuple[int, Any]:
        body = None if method in ("GET", "DELETE") else json.dumps(value)
        answer = await self._http.fetch(
            address(self.node) + path, method=method, body=body, raise_error=False, allow_nonstandard_methods=True
        )
        return answer.code, json.loads(answer.body) if answer.body else None

    async def items(self, channel: str) -> Any:
        return (await self.ask("GET", f"/v1/{channel}"))[1]["items"]


def at(channel: str, key: str) -> str:
    return f"/v1/{channel}/{quote(key, safe='')}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(servers: Embedded) -> AsyncIterator[Nodes]:
    """For all of these; each has a collection of its own."""
    async with cluster(servers, 1, limits=Limits(writes=1e9)) as nodes:
        yield nodes


# MongoDB ------------------------------------------------------------------------------------------------------------


async def test_no_operator_reaches_mongo_in_a_document(nodes: Nodes) -> None:
    client = Client(nodes[0])
    await client.ask("PUT", at("mongo/operators", "other"), {"n": 1})
    await client.ask("PUT", at("mongo/operators", "mine"), {"n": 2})
    for name in OPERATORS:
        bads: list[Any] = [
            {name: 1},
            {name: {"n": 9}},
            {"n": {name: {}}},
            {"n": [{name: "1==1"}]},
            {"n": {"a": 1, name: 1}},
        ]
        for bad in bads:
            for method in ("PUT", "PATCH", "POST"):
                status, said = await client.ask(method, at("mongo/operators", "mine"), bad)
                assert (status, said["error"]["code"]) == (422, "refused"), (method, bad, said)
            assert (await client.ask("POST", "/v1/mongo/operators", bad))[0] == 422
    for bad in [{"a\0b": 1}, {"a": {"\0": 1}}, {"_id": 7}, {"_id": {"$ne": None}}, [], "$where", 1]:
        assert (await client.ask("PUT", at("mongo/operators", "mine"), bad))[0] == 422, bad
    assert await client.items("mongo/operators") == {"other": {"n": 1}, "mine": {"n": 2}}


async def test_a_type_with_an_operator_s_name_is_a_value_to_mongo(nodes: Nodes) -> None:
    """What mongoexport once wrote for a regular expression is one: kept, and not looked for."""
    client = Client(nodes[0])
    await client.ask("PUT", at("mongo/types", "other"), {"n": "x"})
    path, kept = at("mongo/types", "mine"), {"n": {"$regularExpression": {"pattern": ".*", "options": ""}}}
    for method in ("PUT", "PATCH"):
        assert (await client.ask(method, path, {"n": {"$regex": ".*"}}))[0] == 200
        assert await client.ask("GET", path) == (200, kept)
    assert await client.items("mongo/types") == {"other": {"n": "x"}, "mine": kept}


async def test_other_names_are_names_to_mongo(nodes: Nodes) -> None:
    """A dot is no path: what is beside it stays as it is."""
    client = Client(nodes[0])
    for name in PLAIN:
        path = at("mongo/names", "mine")
        document = {"a": {"b": 1, "": 2}, name: {name: [name]}}
        assert (await client.ask("PUT", path, document))[0] == 200, name
        assert await client.ask("GET", path) == (200, document)
        assert (await client.ask("PATCH", path, {name: "$where"}))[0] == 200, name
        assert await client.ask("GET", path) == (200, {**document, name: "$where"})
        assert (await client.ask("PATCH", path, {name: None}))[0] == 200, name
        assert await client.ask("GET", path) == (200, {"a": document["a"]} if name != "a" else {})


async def test_a_key_is_no_filter_to_mongo(nodes: Nodes) -> None:
    client = Client(nodes[0])
    await client.ask("PUT", at("mongo/keys", "other"), {"n": 1})
    keys = [
        '{"$ne":null}',
        '{"$gt":""}',
        '{"$where":"true"}',
        "$where",
        "a.b",
        "[]",
        "/.*/",
        "null",
        "true",
        "1 || 1==1",
    ]
    for key in keys:
        path = at("mongo/keys", key)
        assert (await client.ask("GET", path))[0] == 404, key
        assert (await client.ask("DELETE", path))[0] in (404, 422), key
        status, _ = await client.ask("PUT", path, {"n": 2})
        assert status in (200, 422), key
        if status == 200:
            assert await client.items("mongo/keys") == {"other": {"n": 1}, key: {"n": 2}}
            assert (await client.ask("DELETE", path))[0] == 200, key
        assert await client.items("mongo/keys") == {"other": {"n": 1}}


async def test_documents_of_any_names_are_what_was_written_or_refused(nodes: Nodes) -> None:
    random, client = Random(5), Client(nodes[0])
    await client.ask("PUT", at("mongo/random", "other"), {"n": 1})

    def value(depth: int) -> object:
        if depth and random.random() < 0.6:
            names = random.choices(PLAIN + PLAIN + OPERATORS + ["\0"], k=random.randint(0, 3))
            return {name: value(depth - 1) for name in names}
        return random.choice([1, "$where", None, True, ["x"], 1.5])

    refused = 0
    for _ in range(150):
        document = value(3)
        status, said = await client.ask("PUT", at("mongo/random", "mine"), document)
        assert status in (200, 422), (document, said)
        refused += status == 422
        if status == 200:
            assert (await client.ask("GET", at("mongo/random", "mine")))[1] == document
    assert 20 < refused < 140
    assert (await client.ask("GET", at("mongo/random", "other")))[1] == {"n": 1}


# PostgreSQL ---------------------------------------------------------------------------------------------------------

QUOTES = [
    "x'; DROP TABLE entries; --",
    'x"; DROP TABLE entries; --',
    "a--",
    "$1",
    "%s",
    "\\'; --",
    "ä'\U0001f600",
    "/*",
    "');",
]


async def test_names_are_not_sql(nodes: Nodes) -> None:
    client = Client(nodes[0])
    await client.ask("POST", "/v1/postgres/entries", {"slug": "other", "title": "1"})
    before = await client.items("postgres/entries")
    for text in QUOTES:
        for path in (f"/v1/postgres/{quote(text, safe='')}", at("postgres/entries", text)):
            assert (await client.ask("GET", path))[0] in (400, 404), path
        assert (await client.ask("DELETE", at("postgres/entries", text)))[0] in (404, 422), text
        status, said = await client.ask("POST", "/v1/postgres/entries", {"slug": "mine", "title": "1", text: 1})
        assert (status, said["error"]["code"]) == (422, "refused"), said
        assert (await client.ask("GET", f"/v1/postgres/entries?after={quote(text, safe='')}"))[0] in (200, 400, 422), (
            text
        )
        assert await client.items("postgres/entries") == before
    for name in ("pg_authid", "pg_catalog.pg_authid", "_realtime.tracked", "information_schema.tables"):
        assert (await client.ask("GET", f"/v1/postgres/{name}"))[0] == 404


async def test_values_are_not_sql(nodes: Nodes) -> None:
    client = Client(nodes[0])
    for number, text in enumerate(QUOTES):
        status, said = await client.ask("POST", "/v1/postgres/entries", {"slug": f"s{number}", "title": text})
        assert status == 201, said
        assert (await client.ask("GET", at("postgres/entries", said["key"])))[1]["title"] == text
    connection = await asyncpg.connect(nodes.urls["postgres"])
    assert await connection.fetchval("SELECT count(*) FROM entries WHERE title = ANY($1)", QUOTES) == len(QUOTES)
    await connection.close()


# Redis --------------------------------------------------------------------------------------------------------------

PATTERNS = [
    "*",
    "?",
    "[a-z]*",
    "[^x]",
    "{tag}",
    "a{b}c",
    "other\\*",
    "ä",
    "'",
    '"',
    "a b",
    "$(x)",
    "KEYS[1]",
    "FLUSHALL",
]


async def test_no_name_is_a_pattern_or_a_command_to_redis(nodes: Nodes) -> None:
    client = Client(nodes[0])
    await client.ask("PUT", at("redis/patterns", "other"), 1)
    for key in PATTERNS:
        path = at("redis/patterns", key)
        assert (await client.ask("GET", path))[0] == 404, key
        assert (await client.ask("DELETE", path))[0] == 404, key
        assert (await client.ask("PUT", path, {"$": key}))[0] == 200, key
        assert await client.items("redis/patterns") == {"other": 1, key: {"$": key}}
        assert (await client.ask("DELETE", path))[0] == 200, key
    for key in ("a\r\nFLUSHALL\r\n", "\0", "\x7f", "x" * 201):
        assert (await client.ask("PUT", at("redis/patterns", key), 1))[0] in (400, 422), key
    for collection in ("*", "th?ngs", "[t]hings", "{things}", "a:b", "a b"):
        assert (await client.ask("GET", f"/v1/redis/{quote(collection, safe='')}"))[0] == 400, collection
    assert await client.items("redis/patterns") == {"other": 1}


async def test_the_log_s_keys_are_nobody_s(nodes: Nodes) -> None:
    client, server = Client(nodes[0]), redis.asyncio.from_url(nodes.urls["redis"])
    await client.ask("PUT", at("redis/ours", "other") + "?wait=1", 1)
    names: list[Any] = await server.keys("realtime:*")
    ours = {name.decode(): await server.type(name) for name in names}
    assert "realtime:log:redis/ours" in ours
    for name in [*ours, "realtime:x", "realtime:"]:
        for path in (at("redis/realtime", name.partition(":")[2] or "x"), at("redis/default", name)):
            for method in ("PUT", "PATCH", "POST", "DELETE"):
                assert (await client.ask(method, path, {"x": 1}))[0] in (404, 422), (method, path)
            assert (await client.ask("GET", path))[0] == 404, path
    assert {name: await server.type(name) for name in ours} == ours
    assert await server.exists("realtime:x", "realtime:") == 0
    assert await server.xlen("realtime:log:redis/ours") == 1
    assert await client.items("redis/ours") == {"other": 1}
    await server.aclose()


async def test_the_log_s_keys_are_not_subscribed_to(nodes: Nodes) -> None:
    async with websockets.connect(address(nodes[0]).replace("http", "ws") + "/v1/ws") as connection:
        await connection.recv()  # welcome
        for number, channel in enumerate(("redis/realtime", "redis/realtime:log", "realtime/log", "redis/*")):
            await connection.send(json.dumps({"type": "subscribe", "id": number, "channel": channel}))
            said = json.loads(await connection.recv())
            assert (said["type"], said["id"]) == ("error", number), said
        key = "realtime:log:redis/ours"
        await connection.send(json.dumps({"type": "subscribe", "id": 9, "channel": "redis/default", "key": key}))
        said = json.loads(await connection.recv())
        assert (said["type"], said["items"]) == ("subscribed", {})
        await connection.send(json.dumps({"type": "subscribe", "id": 10, "channel": "redis/default"}))
        said = json.loads(await connection.recv())
        assert not any(name.startswith("realtime") for name in said["items"])
