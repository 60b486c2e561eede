"""A node is killed, and its sessions resume on another: time until all are live, and what it cost the store.

    scripts/bench storm [--sessions N] [--missed M] [--json]

Each session watches a key of its own in one channel and comes back with a cursor from which M events are missing, all
still in the history; 64 are on the way at a time, as a listening socket has no room for many more. The clock starts at
the kill. Reads are counted by the server itself (INFO commandstats): a read of an item from the store is a TYPE, a read
of a channel's history an XRANGE; nothing else that happens meanwhile is one.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from redis.asyncio import Redis

from bench import log, output
from bench.nodes import nodes, say, servers
from bench.receivers import Doors, compiled, receivers, subscribe

Row = dict[str, Any]


async def calls(redis: Redis, command: str) -> int:
    """How often the server was asked for it."""
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


async def run(sessions: int, missed: int) -> list[Row]:
    loop = asyncio.get_running_loop()
    keys = [f"k{number}" for number in range(sessions)]
    with compiled("receivers.c") as program:
        async with servers() as own, log.opened(own) as writer, nodes(own, 2) as (first, second):
            redis = Redis.from_url(own.urls["redis"])
            await writer.publish("f", keys[:1])
            async with receivers(program, Doors(first.base), [subscribe("redis/f", key) for key in keys]) as before:
                await before.live()
                say(f"{sessions} sessions on the first node")
                cursor = writer.place("f")
                back = [subscribe("redis/f", key, cursor=str(cursor)) for key in keys]
                reads, histories = await calls(redis, "type"), await calls(redis, "xrange")
                begin = loop.time()
                await first.kill()
                await writer.publish("f", [keys[number % sessions] for number in range(missed)])
            async with receivers(program, Doors(second.base, size=log.SIZE), back) as after:
                report = await after.live()
                took = loop.time() - begin
                heard = (await after.heard(missed)).events
            counted = await second.metrics()
            row = {
                "sessions": sessions,
                "missed": missed,
                "live": report.live,
                "seconds_until_all_live": took,
                "heard": heard,
                "resumed": int(counted['realtime_resume_total{result="resumed"}']),
                "store_reads": await calls(redis, "type") - reads,
                "history_reads": await calls(redis, "xrange") - histories,
            }
            await redis.aclose()
    return [row]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench storm", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=10000, help="of the node that is killed [10000]")
    parser.add_argument("--missed", type=int, default=100, help="events before they are back [100]")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    output.show({"storm": output.complete(run(options.sessions, options.missed))}, as_json=options.json)


if __name__ == "__main__":
    main()
