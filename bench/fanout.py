"""One event to many WebSockets: deliveries per second, counted at the receivers, beside the kernel's limit and peers.

    scripts/bench fanout [--sessions N] [--seconds S] [--rounds R] [--peers] [--json]

A writer in a process of its own writes into the log, and the next turn when the first receiver has heard this one: so
there is always one turn on its way to the node while it delivers another. `in step` it waits for the last receiver, and
nothing is on its way meanwhile: no turn can be joined with another. The readers are one program in C, the same for all;
its share of a core is in the table. Contenders take turns within a round; the table has medians, and the ratio to a C
loop of send() with one message a turn, of the same round. `--peers` installs python-socketio and ws into a directory of
the run; nchan is taken where Debian's packages are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import websockets

from bench import log, output, peers
from bench.log import SIZE
from bench.nodes import NodeProcess, cpu, node, say, servers
from bench.peers import HERE, Contender, Missing
from bench.receivers import Doors, compiled, receivers, subscribe, text_frame
from realtime.embedded import Embedded

LIMIT, STEP = "C send()", "C send(), in step"
BURSTS = (1, 10)
WARM = 1.0  # seconds before the count, at most

RATE, COST = "deliveries_per_second", "server_us_per_delivery"
MEDIANS = (RATE, "events_per_read", COST, "server_cpu", "receivers_cpu")

Row = dict[str, Any]


@asynccontextmanager
async def ours(own: Embedded) -> AsyncIterator[list[Contender]]:
    """A whole node, twice."""
    async with log.opened(own) as writer, node(own, "bench-node") as serving, _receiver(serving) as first:

        async def drive(burst: int, pacing: websockets.ClientConnection = first) -> None:
            while True:
                await writer.publish("f", ["k"] * burst)
                for _ in range(burst):
                    await pacing.recv()

        async def in_step(burst: int) -> None:
            async with _receiver(serving) as last:  # which is sent to after all that were there before it
                await drive(burst, last)

        ways = {"realtime": drive, "realtime, in step": in_step}
        pid, doors, request = serving.process.pid, Doors(serving.base, size=SIZE), subscribe("redis/f")
        yield [Contender(name, pid, doors, request, way) for name, way in ways.items()]


@asynccontextmanager
async def _receiver(serving: NodeProcess) -> AsyncIterator[websockets.ClientConnection]:
    async with websockets.connect(serving.websocket, compression=None, max_queue=None) as connection:
        await connection.send(json.dumps({"type": "subscribe", "id": 1, "channel": "redis/f"}))
        while '"type":"subscribed"' not in str(await connection.recv()):
            pass
        yield connection


def others(sender: Path, *, install: bool) -> Mapping[str, AbstractAsyncContextManager[Contender]]:
    plain = Doors("", "/", mark="", size=SIZE)
    found = {
        LIMIT: peers.looping(LIMIT, [sender, "free"], plain),
        STEP: peers.looping(STEP, [sender, "step"], plain._replace(kind="step")),
        "Tornado": peers.looping("Tornado", [sys.executable, HERE / "tornado_loop.py"], plain),
        "nchan": peers.nchan(),
    }
    if install:
        found["python-socketio"] = peers.looping(
            "python-socketio",
            [sys.executable, HERE / "socketio_loop.py"],
            peers.socketio(),
            text_frame("40"),
            peers.pip,
        )
        found["ws (Node)"] = peers.looping("ws (Node)", ["node", HERE / "ws_loop.js"], plain, install=peers.npm)
    else:
        say("python-socketio and ws (Node) are missing: --peers installs them")
    return found


async def measure(program: Path, contender: Contender, burst: int, sessions: int, seconds: float) -> Row:
    async with receivers(program, contender.doors, [contender.request] * sessions) as load:
        await load.live()
        driving = asyncio.create_task(_drive(contender, burst), name=contender.name)
        try:
            await asyncio.sleep(min(WARM, seconds))
            used, before = cpu(contender.pid), await load.report()
            await asyncio.wait([driving], timeout=seconds)
            after, spent = await load.report(), cpu(contender.pid) - used
        finally:
            driving.cancel()
            await asyncio.wait([driving])
        if not driving.cancelled():
            driving.result()
    took, events = after.clock - before.clock, after.events - before.events
    return {
        "name": contender.name,
        "burst": burst,
        RATE: events / took,
        "events_per_read": events / max(after.reads - before.reads, 1),
        COST: spent / max(events, 1) * 1e6,
        "server_cpu": spent / took,
        "receivers_cpu": (after.cpu - before.cpu) / took,
        "skipped": after.skipped,
        "wrong": after.wrong,
        "closed": after.closed,
    }


async def _drive(contender: Contender, burst: int) -> None:
    await contender.drive(burst)


async def run(sessions: int, seconds: float, rounds: int, *, install: bool) -> list[Row]:
    measured: dict[tuple[str, int], list[Row]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        program = stack.enter_context(compiled("receivers.c"))
        sender = stack.enter_context(compiled("peers/sender.c"))
        own = await stack.enter_async_context(servers())
        contenders = await stack.enter_async_context(ours(own))
        for name, peer in others(sender, install=install).items():
            try:
                contenders.append(await stack.enter_async_context(peer))
            except Missing as missing:
                say(f"{name} is missing: {missing}")
        for number in range(rounds):
            for burst in BURSTS:
                for contender in contenders:
                    row = await measure(program, contender, burst, sessions, seconds)
                    say(f"round {number + 1}: {contender.name}, {burst} a turn: {row[RATE]:,.0f}/s")
                    measured[contender.name, burst].append(row)
    return summary(measured)


def summary(measured: Mapping[tuple[str, int], list[Row]]) -> list[Row]:
    """Medians, and medians of the ratios to the same round's limit: by time, and by the server's processor time."""
    limits = measured[LIMIT, 1]
    rows = []
    for (name, burst), found in measured.items():
        row: Row = {"name": name, "burst": burst}
        for column in MEDIANS:
            row[column] = statistics.median(each[column] for each in found)
        pairs = list(zip(found, limits, strict=True))
        row["of_limit"] = statistics.median(each[RATE] / limit[RATE] for each, limit in pairs)
        row["of_limit_by_cpu"] = statistics.median(limit[COST] / max(each[COST], 1e-9) for each, limit in pairs)
        rows.append(row | {column: sum(each[column] for each in found) for column in ("skipped", "wrong", "closed")})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench fanout", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=2000, help="WebSocket clients of one key [2000]")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each count [5]")
    parser.add_argument("--rounds", type=int, default=3, help="in which each contender is measured [3]")
    parser.add_argument("--peers", action="store_true", help="install those peers that pip and npm have")
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
    options = parser.parse_args()
    rows = output.complete(run(options.sessions, options.seconds, options.rounds, install=options.peers))
    output.show({"fanout": rows}, as_json=options.json)


if __name__ == "__main__":
    main()
