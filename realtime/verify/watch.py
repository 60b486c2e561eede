"""What can be seen of the nodes from outside: what they count, their memory, who holds the feeds, what is left over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from ..tasks import Tasks
from .checker import Violation
from .stage import FEEDS, Stage

COUNTED = ("repairs", "resets", "takeovers", "reconciles", "slow_sessions")
OPEN = ("connections", "subscriptions", "channels")  # none of them is left when every client is gone
GONE = 15.0  # seconds for a node to let go of what nobody uses; a channel is kept for 5
GROWTH = 256  # MiB that a node may have grown since the first look at it
PAGE = 1000
LOOK = 0.05  # seconds between two looks at the holders

Numbers = Counter[str]


class Watch:
    """`memory`: MiB, the most that any node had when it was looked at."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._http = AsyncHTTPClient(force_instance=True)
        self._counted: dict[object, Numbers] = {}  # by process: one that starts again counts from nothing
        self._first: dict[int, int] = {}  # by process, its memory at the first look
        self.memory = 0

    def close(self) -> None:
        self._http.close()

    async def read(self, channel: str) -> dict[str, Any] | None:
        """A collection as a node reads it; None where none does at present."""
        for address in self._stage.addresses():
            items: dict[str, Any] = {}
            after: str | None = ""
            while after is not None:
                query = urlencode({"limit": PAGE, **({"after": after} if after else {})})
                page = await self._get(f"{address}/v1/{channel}?{query}")
                if page is None:
                    break
                answer = msgspec.json.decode(page)
                items |= answer["items"]
                after = answer["next"]
            else:
                return items
        return None

    async def clear(self, channel: str) -> None:
        """Delete every item by REST."""
        for key in await self.read(channel) or {}:
            url = f"{self._stage.addresses()[0]}/v1/{channel}/{quote(key, safe='')}"
            await self._http.fetch(url, method="DELETE", raise_error=False)

    async def look(self) -> list[Violation]:
        """Count what the nodes counted, and see that none has grown out of bounds."""
        for of, address in self._processes():
            if numbers := await self._numbers(address):
                self._counted[of] = numbers
        return [*filter(None, map(self._grown, (node.pid for node in self._stage.nodes if node.up)))]

    def counts(self) -> dict[str, int]:
        """By name, over all nodes and all of their lives."""
        total: Numbers = sum(self._counted.values(), Counter())
        return {name: sum(n for of, n in total.items() if _name(of) == name) for name in COUNTED}

    async def left_over(self) -> list[Violation]:
        """What the nodes still have when every client is gone."""
        if not self._stage.nodes:
            return []  # others may be connected
        end = time.monotonic() + GONE
        while left := await self._open():
            if time.monotonic() > end:
                return [Violation("I6", f"{what} when every client is gone") for what in left]
            await asyncio.sleep(0.2)
        return []

    @asynccontextmanager
    async def takeovers(self) -> AsyncIterator[list[float]]:
        """Seconds, of each time that a feed's holder was dead or frozen until another one had it, if there was one."""
        found: list[float] = []
        tasks = Tasks()
        if self._stage.nodes:
            for store in FEEDS:
                tasks.start(self._follow(store, found), f"holder of {store}")
        try:
            yield found
        finally:
            await tasks.close()

    async def _follow(self, store: str, found: list[float]) -> None:
        since: float | None = None
        while True:
            holder = await self._stage.holder(store)
            if holder is not None:
                now = time.monotonic()
                if holder.works:
                    if since is not None:
                        found.append(now - since)
                    since = None
                elif not any(node.works for node in self._stage.nodes):
                    since = None
                elif since is None:
                    since = now
            await asyncio.sleep(LOOK)

    async def _open(self) -> list[str]:
        left = []
        for node in self._stage.nodes:
            numbers = await self._numbers(node.address)
            left += [f"{node.name} has {n:g} {_name(of)}" for of, n in numbers.items() if _name(of) in OPEN and n]
        return left

    def _processes(self) -> list[tuple[object, str]]:
        nodes = [(node.pid, node.address) for node in self._stage.nodes if node.up]
        return [*nodes] or [(address, address) for address in self._stage.addresses()]

    async def _numbers(self, address: str) -> Numbers:
        text = await self._get(f"{address}/metrics")
        if text is None:
            return Counter()
        families = text_string_to_metric_families(text.decode())
        samples = (sample for family in families for sample in family.samples if not sample.name.endswith("_created"))
        return Counter({f"{each.name} {sorted(each.labels.items())}": int(each.value) for each in samples})

    async def _get(self, url: str) -> bytes | None:
        try:
            return (await self._http.fetch(url, connect_timeout=2, request_timeout=5)).body
        except (HTTPClientError, OSError):
            return None

    def _grown(self, pid: int) -> Violation | None:
        memory = memory_of(pid)
        self.memory = max(self.memory, memory)
        growth = memory - self._first.setdefault(pid, memory)
        return Violation("I6", f"process {pid} has grown by {growth} MiB to {memory} MiB") if growth > GROWTH else None


def memory_of(pid: int) -> int:
    """MiB in use now; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
    return sizes[0] // 1024 if sizes else 0


def _name(sample: str) -> str:
    return sample.partition(" ")[0].removeprefix("realtime_").removesuffix("_total")
