"""REST writes per second: with capture and streaming, by the same handler without them, and by the bare store.

    scripts/bench writes [--seconds S] [--rounds R] [--json]

16 writers at a time, each on a connection of its own, to a thousand keys. `service`: PUT to a node that carries all
feeds, with a client that hears every event. `handler`: the same PUT to a node without feeds. `store`: the same value
by the store's driver. The latter two on servers of their own, that nobody captures. The writers' share of a core is in
the table: where it is near one, they were the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pymongo
from redis.asyncio import Redis

from bench import output
from bench.nodes import QUIET, begun, node, nodes, say, servers
from bench.receivers import Doors, compiled, receivers, subscribe
from realtime.embedded import Embedded

STORES = ("redis", "postgres", "mongo")
WRITERS, KEYS = 16, 1000

Row = dict[str, Any]
Write = Callable[[int, int], Awaitable[object]]  # key, number


@asynccontextmanager
async def bare(own: Embedded) -> AsyncIterator[dict[str, Write]]:
    """By the drivers that the service has, too."""
    rows = await asyncpg.create_pool(own.urls["postgres"], min_size=WRITERS, max_size=WRITERS)
    mongo = pymongo.AsyncMongoClient[Row](own.urls["mongo"])
    documents, keys = mongo.get_default_database()["bench"], Redis.from_url(own.urls["redis"])
    upsert = "INSERT INTO bench VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = excluded.n"
    try:
        yield {
            "redis": lambda key, number: keys.set(f"bench:{key}", json.dumps({"n": number})),
            "postgres": lambda key, number: rows.execute(upsert, key, number),
            "mongo": lambda key, number: documents.replace_one({"_id": key}, {"n": number}, upsert=True),
        }
    finally:
        await rows.close()
        await mongo.close()
        await keys.aclose()


async def by_rest(stack: AsyncExitStack, base: str, store: str) -> Write:
    """On connections that stay open."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue(WRITERS)
    for _ in range(WRITERS):
        reader, writer = await asyncio.open_connection(*base.removeprefix("http://").split(":"))
        stack.callback(writer.close)
        free.put_nowait((reader, writer))

    async def write(key: int, number: int) -> None:
        body = b'{"n":%d}' % number
        reader, writer = connection = await free.get()
        writer.write(b"PUT /v1/%s/bench/%d HTTP/1.1\r\nHost: localhost\r\n" % (store.encode(), key))
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(head.decode())
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
        free.put_nowait(connection)

    return write


async def rate(write: Write, seconds: float) -> tuple[float, float]:
    """Writes per second, and the share of a core that writing them took here."""
    begin, used = time.perf_counter(), time.process_time()
    numbers = iter(range(1 << 60))

    async def worker() -> None:
        while time.perf_counter() < begin + seconds:
            number = next(numbers)
            await write(number % KEYS, number)

    await asyncio.gather(*(worker() for _ in range(WRITERS)))
    took = time.perf_counter() - begin
    return next(numbers) / took, (time.process_time() - used) / took


async def run(seconds: float, rounds: int) -> list[Row]:
    measured: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        program = stack.enter_context(compiled("receivers.c"))
        captured, alone = [await _prepared(stack) for _ in range(2)]
        [full] = await stack.enter_async_context(nodes(captured, 1, REALTIME_TABLES="bench"))
        await begun(captured, *STORES)
        quiet = await stack.enter_async_context(node(alone, "bench-quiet", {"REALTIME_TABLES": "bench"}, QUIET))
        drivers = await stack.enter_async_context(bare(alone))
        for store in STORES:
            ways = {
                "service": await by_rest(stack, full.base, store),
                "handler": await by_rest(stack, quiet.base, store),
                "store": drivers[store],
            }
            for number in range(rounds):
                for way, write in ways.items():
                    measured[store, way].append(await _measure(program, full.base, store, way, write, seconds))
                    say(f"round {number + 1}: {store}, {way}: {measured[store, way][-1][0]:,.0f}/s")
    return [summary(store, way, measured) for store, way in measured]


async def _prepared(stack: AsyncExitStack) -> Embedded:
    """Servers of its own, so that nobody captures what is written to the others."""
    own = await stack.enter_async_context(servers())
    connection = await asyncpg.connect(own.urls["postgres"])
    await connection.execute("CREATE TABLE bench (id bigint PRIMARY KEY, n bigint)")
    await connection.close()
    return own


async def _measure(program: Path, base: str, store: str, way: str, write: Write, seconds: float) -> tuple[float, float]:
    async with receivers(program, Doors(base, tail=-1), [subscribe(f"{store}/bench")] * (way == "service")) as load:
        await load.live()
        return await rate(write, seconds)


def summary(store: str, way: str, measured: dict[tuple[str, str], list[tuple[float, float]]]) -> Row:
    def ratio(other: str) -> float:
        return statistics.median(
            mine / theirs for (mine, _), (theirs, _) in zip(measured[store, way], measured[store, other], strict=True)
        )

    return {
        "store": store,
        "by": way,
        "writes_per_second": statistics.median(each for each, _ in measured[store, way]),
        "of_handler": ratio("handler"),
        "of_store": ratio("store"),
        "writers_cpu": statistics.median(share for _, share in measured[store, way]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench writes", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each count [4]")
    parser.add_argument("--rounds", type=int, default=3, help="in which each is measured [3]")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    output.show({"writes": output.complete(run(options.seconds, options.rounds))}, as_json=options.json)


if __name__ == "__main__":
    main()
