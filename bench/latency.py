"""From a write to another node's client: per store and transport, by REST and behind the service's back.

    scripts/bench latency [--writes N] [--sessions N] [--rates R …] [--seconds S] [--json]

First one write at a time, so that what is measured is the way and not a queue: the clock starts before the write is
sent and stops when the client has the event. Besides: the same PUT alone, which is part of the way by REST. Then many
at a time, behind the service's back, at the given rates, with so many sessions (loaded.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pymongo
import redis.asyncio
import websockets
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from bench import loaded, output
from bench.nodes import begun, nodes, say, servers
from bench.receivers import compiled
from realtime.embedded import Embedded

CASES: dict[str, tuple[str, Callable[[int], Any]]] = {
    "redis": ("redis/bench/1", lambda n: {"n": n}),
    "postgres": ("postgres/entries/1", lambda n: {"slug": "bench", "title": str(n)}),
    "mongo": ("mongo/bench/1", lambda n: {"n": n}),
}

TRANSPORTS = ("websocket", "sse", "poll")

Write = Callable[[int], Awaitable[None]]
Row = dict[str, Any]


class Client:
    """Hands out the moments at which events came."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[float] = asyncio.Queue()

    async def websocket(self, base: str, channel: str, key: str) -> None:
        async with websockets.connect(base.replace("http", "ws") + "/v1/ws") as connection:
            await connection.send(json.dumps({"type": "subscribe", "id": 1, "channel": channel, "key": key}))
            async for frame in connection:
                if '"type":"event"' in str(frame) or '"type":"subscribed"' in str(frame):
                    self.came.put_nowait(time.perf_counter())

    async def sse(self, base: str, channel: str, key: str) -> None:
        def take(chunk: bytes) -> None:
            if b"event: put" in chunk or b"event: subscribed" in chunk:
                self.came.put_nowait(time.perf_counter())

        url, headers = f"{base}/v1/{channel}/{key}", {"Accept": "text/event-stream"}
        await AsyncHTTPClient(force_instance=True).fetch(
            HTTPRequest(url, headers=headers, streaming_callback=take, request_timeout=600)
        )

    async def poll(self, base: str, channel: str, key: str) -> None:
        client, cursor = AsyncHTTPClient(force_instance=True), ""
        while True:
            answer = await client.fetch(f"{base}/v1/{channel}/{key}?wait=25{cursor}", request_timeout=60)
            self.came.put_nowait(time.perf_counter())
            cursor = f"&cursor={json.loads(answer.body)['cursor']}"


async def measure(transport: str, base: str, path: str, write: Write, writes: int) -> list[float]:
    """Milliseconds from each write to its event."""
    client = Client()
    channel, _, key = path.rpartition("/")
    listening = asyncio.create_task(getattr(client, transport)(base, channel, key), name=transport)
    took = []
    try:
        await asyncio.wait_for(client.came.get(), 10)
        for number in range(writes):
            begin = time.perf_counter()
            writing = asyncio.ensure_future(write(number))
            took.append((await asyncio.wait_for(client.came.get(), 10) - begin) * 1000)
            await writing
    finally:
        listening.cancel()
    return took


async def by_rest(base: str, path: str, value: Callable[[int], Any]) -> Write:
    """On one connection that stays open, as a writer with many writes has it; Tornado's client opens one for each."""
    reader, writer = await asyncio.open_connection(*base.removeprefix("http://").split(":"))

    async def write(number: int) -> None:
        body = json.dumps(value(number)).encode()
        head = f"PUT /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer.decode())
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        await reader.readexactly(int(length[1]) if length else 0)

    return write


async def behind(own: Embedded) -> dict[str, Write]:
    """Writers that know nothing of the service."""
    row = await asyncpg.connect(own.urls["postgres"])
    keys = redis.asyncio.from_url(own.urls["redis"])
    documents = pymongo.AsyncMongoClient[Row](own.urls["mongo"]).get_default_database()["bench"]

    async def postgres(number: int) -> None:
        await row.execute("UPDATE entries SET title = $1 WHERE id = 1", f"behind {number}")

    async def redis_(number: int) -> None:
        await keys.set("bench:1", f'{{"behind":{number}}}')

    async def mongo(number: int) -> None:
        await documents.update_one({"_id": 1}, {"$set": {"behind": number}})

    return {"postgres": postgres, "redis": redis_, "mongo": mongo}


async def alone(write: Write, writes: int) -> list[float]:
    took = []
    for number in range(writes):
        begin = time.perf_counter()
        await write(-number - 1)
        took.append((time.perf_counter() - begin) * 1000)
    return took


def row(store: str, way: str, transport: str, took: list[float]) -> Row:
    cuts = statistics.quantiles(took, n=100)
    return {
        "store": store,
        "write": way,
        "client": transport,
        "p50_ms": cuts[49],
        "p95_ms": cuts[94],
        "p99_ms": cuts[98],
    }


async def one_by_one(own: Embedded, here: str, there: str, writes: int) -> list[Row]:
    rows = []
    others = await behind(own)
    for store, (path, value) in CASES.items():
        rest = await by_rest(here, path, value)
        rows.append(row(store, "REST", "(the PUT alone)", await alone(rest, writes)))
        for transport in TRANSPORTS:
            say(f"{store} over {transport} …")
            rows.append(row(store, "REST", transport, await measure(transport, there, path, rest, writes)))
        rows.append(row(store, "behind", "websocket", await measure("websocket", there, path, others[store], writes)))
    return rows


async def many(own: Embedded, there: str, sessions: int, rates: list[int], seconds: float) -> list[Row]:
    with compiled("receivers.c") as program:
        async with loaded.writers(own) as writers:
            return [
                await loaded.measure(program, there, store, write, transport, rate, sessions, seconds)
                for store, write in writers.items()
                for transport in TRANSPORTS
                for rate in rates
            ]


async def run(writes: int, sessions: int, rates: list[int], seconds: float) -> dict[str, list[Row]]:
    async with servers() as own:
        await loaded.prepare(own, sessions)
        async with nodes(own, 2, REALTIME_TABLES=f"entries,{loaded.TABLE}") as (first, second):
            await begun(own, *CASES)
            return {
                "one_by_one": await one_by_one(own, first.base, second.base, writes),
                "loaded": await many(own, second.base, sessions, rates, seconds),
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench latency", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--writes", type=int, default=300, help="one by one, for each row of the table [300]")
    parser.add_argument("--sessions", type=int, default=1000, help="each watching one key, with many writes [1000]")
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 1000], help="of writes a second [100 1000]")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row of the table [5]")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    tables = output.complete(run(options.writes, options.sessions, options.rates, options.seconds))
    output.show(tables, as_json=options.json)


if __name__ == "__main__":
    main()
