"""What an event, a subscribe and a leave cost a node, while what is elsewhere on it grows tenfold.

    scripts/bench growth [--others N …] [--events E] [--rest S] [--json]

Elsewhere are N keys (each watched by a session's subscription), N channels, or N sessions of one key; the probe is one
key in a channel that nobody else watches, but for `keys`, where it is one more. Costs are processor time of the node's
process, of E events and of E subscribes, each followed by its leave, without what the node takes when nothing happens,
which is in the table as its share of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import websockets

from bench import log, output
from bench.log import Log
from bench.nodes import NodeProcess, cpu, node, say, servers
from bench.receivers import Doors, compiled, receivers, subscribe
from realtime.embedded import Embedded
from realtime.session import MAX_SUBSCRIPTIONS

EACH = 100  # subscriptions of each session, of keys and of channels
PATIENCE = 30.0  # seconds for an answer
ELSEWHERE = ("keys", "channels", "sessions")

Row = dict[str, Any]
assert EACH <= MAX_SUBSCRIPTIONS


def requests(what: str, others: int) -> list[bytes]:
    """What each session elsewhere sends; the last of its subscriptions has the id 0."""
    if what == "sessions":
        return [subscribe("redis/elsewhere", "k", id=0)] * others
    if what == "keys":
        wanted = [("redis/probe", f"k{number}") for number in range(others)]
    else:
        wanted = [(f"redis/c{number}", "k") for number in range(others)]
    portions = [wanted[start : start + EACH] for start in range(0, others, EACH)]
    return [
        b"".join(subscribe(*each, id=len(portion) - 1 - place) for place, each in enumerate(portion))
        for portion in portions
    ]


class Probe:
    """One client that watches one key."""

    def __init__(self, connection: websockets.ClientConnection, writer: Log) -> None:
        self._connection, self._writer = connection, writer

    async def events(self, number: int) -> None:
        """One a turn."""
        for _ in range(number):
            await self._writer.publish("probe", ["probe"])
            await self._until("event")

    async def subscribes(self, number: int) -> None:
        """And leaves."""
        for each in range(number):
            request = {"type": "subscribe", "id": f"p{each}", "channel": "redis/probe", "key": f"p{each}"}
            await self._connection.send(json.dumps(request))
            await self._until("subscribed")
            await self._connection.send(json.dumps({"type": "unsubscribe", "id": f"p{each}"}))
            await self._until("unsubscribed")

    async def watch(self) -> None:
        request = {"type": "subscribe", "id": "probe", "channel": "redis/probe", "key": "probe"}
        await self._connection.send(json.dumps(request))
        await self._until("subscribed")

    async def _until(self, kind: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while f'"type":"{kind}"' not in str(await self._connection.recv()):
                pass


async def cost(serving: NodeProcess, idle: float, number: int, work: Callable[[int], Awaitable[None]]) -> float:
    """Microseconds of processor time of each."""
    loop = asyncio.get_running_loop()
    await work(max(number // 10, 1))  # the first ones are dearer
    begin, used = loop.time(), cpu(serving.process.pid)
    await work(number)
    spent = cpu(serving.process.pid) - used - idle * (loop.time() - begin)
    return max(spent, 0.0) / number * 1e6


async def measure(program: Path, own: Embedded, writer: Log, what: str, others: int, number: int, rest: float) -> Row:
    doors = Doors("", mark='"subscribed","id":0,', window=1)  # a hundred subscribes at a time
    async with (
        node(own, "bench-node") as serving,
        receivers(program, doors._replace(base=serving.base), requests(what, others)) as load,
        websockets.connect(serving.websocket, compression=None) as connection,
    ):
        await load.live()
        probe = Probe(connection, writer)
        await probe.watch()
        used = cpu(serving.process.pid)
        await asyncio.sleep(rest)
        idle = (cpu(serving.process.pid) - used) / rest
        row = {
            "elsewhere": what,
            "number": others,
            "event_us": await cost(serving, idle, number, probe.events),
            "subscribe_and_leave_us": await cost(serving, idle, number, probe.subscribes),
            "idle_cpu": idle,
        }
    say(f"{others} {what}: {row['event_us']:.0f} us an event")
    return row


async def run(numbers: list[int], events: int, rest: float) -> list[Row]:
    with compiled("receivers.c") as program:
        async with servers() as own, log.opened(own) as writer:
            return [
                await measure(program, own, writer, what, others, events, rest)
                for what in ELSEWHERE
                for others in numbers
            ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench growth", description=str(__doc__).partition("\n")[0])
    numbers = [10, 100, 1000, 10000]
    parser.add_argument("--others", type=int, nargs="+", default=numbers, help="elsewhere [10 100 1000 10000]")
    parser.add_argument("--events", type=int, default=1000, help="and subscribes, of each row of the table [1000]")
    parser.add_argument("--rest", type=float, default=4.0, help="seconds in which nothing happens, of each row [4]")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    output.show({"growth": output.complete(run(options.others, options.events, options.rest))}, as_json=options.json)


if __name__ == "__main__":
    main()
