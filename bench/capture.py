"""From many writes by others to one client: row changes per second, and whether the client is behind when they end.

    scripts/bench capture [--changes N] [--json]

The writers know nothing of the service, and one client hears the whole collection. PostgreSQL: one transaction of N
rows, then N transactions of one row, made in the server by a DO block that does not wait for the disk. MongoDB: inserts
by the thousand, then a tenth of them one by one. Redis: SETs in pipelines, each of a key of its own, as only a key's
final state is promised. `behind` are the seconds from the writers' end to the client's last event; `lost`: events that
did not come, where a client is told to come back, or is given a snapshot instead.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pymongo
from redis.asyncio import Redis

from bench import output
from bench.nodes import begun, nodes, say, servers
from bench.receivers import Doors, Receivers, Report, compiled, receivers, subscribe
from realtime.embedded import Embedded

TABLES = ("large", "small")  # transactions
TABLE = "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint)"
LARGE = "INSERT INTO large (n) SELECT generate_series(1, $1::int)"
SMALL = "DO $$ BEGIN FOR i IN 1..{} LOOP INSERT INTO small (n) VALUES (i); COMMIT; END LOOP; END $$"
PORTION = 1000  # writes sent at once
QUIET = 5.0  # seconds without an event after which no more are expected

Row = dict[str, Any]


class Way(NamedTuple):
    """A way to write: each into a channel of its own, which is empty before. `part`: of the changes asked for."""

    name: str
    channel: str
    write: Callable[[int], Awaitable[object]]
    part: float = 1.0


@asynccontextmanager
async def writers(own: Embedded) -> AsyncIterator[list[Way]]:
    rows = await asyncpg.connect(own.urls["postgres"])
    mongo = pymongo.AsyncMongoClient[Row](own.urls["mongo"])
    documents, keys = mongo.get_default_database(), Redis.from_url(own.urls["redis"])

    async def many(number: int) -> None:
        for start in range(0, number, PORTION):
            await documents["many"].insert_many([{"n": each} for each in range(start, min(start + PORTION, number))])

    async def singly(number: int) -> None:
        for each in range(number):
            await documents["singly"].insert_one({"n": each})

    async def pipelines(number: int) -> None:
        for start in range(0, number, PORTION):
            pipeline = keys.pipeline(transaction=False)
            for each in range(start, min(start + PORTION, number)):
                pipeline.set(f"bench:{each}", each)
            await pipeline.execute()

    try:
        await rows.execute("SET synchronous_commit = off")  # else the disk is what is measured
        for table in TABLES:
            await rows.execute(TABLE.format(table))
        yield [
            Way("one transaction", "postgres/large", lambda number: rows.execute(LARGE, number)),
            Way("one row a transaction", "postgres/small", lambda number: rows.execute(SMALL.format(number))),
            Way("a thousand at once", "mongo/many", many),
            Way("one by one", "mongo/singly", singly, 0.1),  # slow to write
            Way("pipelines of a thousand", "redis/bench", pipelines),
        ]
    finally:
        await rows.close()
        await mongo.close()
        await keys.aclose()


async def measure(program: Path, base: str, way: Way, changes: int) -> Row:
    loop = asyncio.get_running_loop()
    async with receivers(program, Doors(base, tail=-1), [subscribe(way.channel)]) as load:
        await load.live()
        begin = loop.time()
        await way.write(changes)
        written = loop.time()
        report, last = await _all(load, changes)
    heard = min(report.events, changes)
    return {
        "channel": way.channel,
        "writes": way.name,
        "changes": changes,
        "written_per_second": changes / (written - begin),
        "heard_per_second": heard / (last - begin),
        "behind_seconds": last - written,
        "lost": changes - heard,
        "closed": report.closed,
    }


async def _all(load: Receivers, changes: int) -> tuple[Report, float]:
    """What came, and when the last of it did, about."""
    loop = asyncio.get_running_loop()
    before, last = -1, loop.time()
    while True:
        report = await load.report()
        if report.events > before:
            before, last = report.events, loop.time()
        if before >= changes or report.closed or loop.time() > last + QUIET:
            return report, last
        await asyncio.sleep(0.005)  # between two looks


async def run(changes: int) -> list[Row]:
    rows = []
    with compiled("receivers.c") as program:
        async with (
            servers() as own,
            writers(own) as ways,
            nodes(own, 1, REALTIME_TABLES=",".join(TABLES)) as [serving],
        ):
            await begun(own, "postgres", "mongo", "redis")
            for way in ways:
                row = await measure(program, serving.base, way, math.ceil(changes * way.part))
                rows.append(row)
                say(f"{way.channel}, {way.name}: {row['heard_per_second']:,.0f}/s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench capture", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--changes", type=int, default=20000, help="of each way to write [20000]")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    output.show({"capture": output.complete(run(options.changes))}, as_json=options.json)


if __name__ == "__main__":
    main()
