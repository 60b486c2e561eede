"""Idle WebSocket sessions: memory of each, time to connect; and memory over time while one session takes nothing.

    scripts/bench connections [--sessions N …] [--seconds S] [--json]

Each session watches a key of its own. A node's memory is its resident set; for each number of sessions there is a new
node, and what it had before anybody came is not counted. 64 connections are on the way at a time.

Then, for S seconds, a hundred sessions hear every event of a channel, as fast as the node can, while another one
subscribes to it and never reads. The events are of fifty keys, twenty of 8 kB a turn, so that what waits for it soon
is more than may wait, unless it is conflated.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import log, output
from bench.nodes import NodeProcess, node, say, servers
from bench.receivers import Doors, compiled, receivers, subscribe
from realtime.embedded import Embedded

LISTENERS = 100  # who read while one does not
KEYS, TURN, LARGE = 50, 20, 8000  # of the events meanwhile: keys, events a turn, bytes of each
PONG = 5.0  # seconds between two pongs of the one that does not: else it would be let go after 45 seconds
SETTLE = 2.0  # seconds after the last one came, until a node's memory is read

Row = dict[str, Any]


async def idle(program: Path, own: Embedded, sessions: int) -> Row:
    requests = [subscribe("redis/f", f"k{number}") for number in range(sessions)]
    async with node(own, "bench-node") as serving:
        async with receivers(program, Doors(serving.base), requests[:10]) as warm:
            await warm.live()
        before = serving.rss
        begin = asyncio.get_running_loop().time()
        async with receivers(program, Doors(serving.base), requests) as load:
            report = await load.live()
            took = asyncio.get_running_loop().time() - begin
            await asyncio.sleep(SETTLE)
            each = (serving.rss - before) / sessions
    say(f"{sessions} sessions: {each / 1024:.1f} KiB each, all live after {took:.1f} s")
    return {
        "sessions": sessions,
        "live": report.live,
        "kib_per_session": each / 1024,
        "seconds_until_all_live": took,
        "connect_ms_p50": report.joins.p50 * 1000,
        "connect_ms_p99": report.joins.p99 * 1000,
    }


async def stalled(program: Path, own: Embedded, seconds: float, listeners: int) -> list[Row]:
    """A row for each tenth of the time."""
    rows, number = [], count()
    requests = [subscribe("redis/f")] * listeners
    async with (
        log.opened(own) as writer,
        node(own, "bench-node") as serving,
        _deaf(serving),
        receivers(program, Doors(serving.base, size=LARGE), requests) as load,
    ):
        report = await load.live()
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for tenth in range(1, 11):
            while loop.time() < begin + tenth * seconds / 10:
                await writer.publish("f", [f"k{next(number) % KEYS}" for _ in range(TURN)], LARGE)
                report = await load.heard(report.events + TURN * listeners)
            rows.append(await _state(serving, loop.time() - begin, report.events))
            say(f"{rows[-1]['seconds']:.0f} s: {rows[-1]['rss_mib']:.1f} MiB")
    return rows


async def _state(serving: NodeProcess, seconds: float, deliveries: int) -> Row:
    counted = await serving.metrics()
    return {
        "seconds": seconds,
        "deliveries": deliveries,
        "rss_mib": serving.rss / (1 << 20),
        "open": int(counted["realtime_connections"]),
        "conflated": int(counted["realtime_conflated_events_total"]),
        "cut": int(counted["realtime_slow_sessions_total"]),
    }


@asynccontextmanager
async def _deaf(serving: NodeProcess) -> AsyncIterator[None]:
    """A client that subscribes and never reads, with as little room in the kernel as it gives; it sends pongs."""
    url, loop = urlsplit(serving.base), asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, (url.hostname, url.port))
        await loop.sock_sendall(deaf, Doors(serving.base).hello())
        await loop.sock_recv(deaf, 1)  # it is answered
        await loop.sock_sendall(deaf, subscribe("redis/f"))

        async def live() -> None:
            while True:
                await asyncio.sleep(PONG)
                await loop.sock_sendall(deaf, b"\x8a\x80\0\0\0\0")

        living = asyncio.create_task(live(), name="pongs")
        try:
            yield
        finally:
            living.cancel()


async def run(sessions: list[int], seconds: float, listeners: int) -> dict[str, list[Row]]:
    with compiled("receivers.c") as program:
        async with servers() as own:
            rows = [await idle(program, own, number) for number in sessions]
            return {"idle": rows, "stalled": await stalled(program, own, seconds, listeners)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench connections", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1000, 15000], help="idle ones [1000 15000]")
    parser.add_argument("--seconds", type=float, default=60.0, help="with one that takes nothing [60]")
    parser.add_argument("--listeners", type=int, default=LISTENERS, help=f"meanwhile [{LISTENERS}]")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    output.show(output.complete(run(options.sessions, options.seconds, options.listeners)), as_json=options.json)


if __name__ == "__main__":
    main()
