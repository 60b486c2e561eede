"""What can be seen of the nodes from outside: what they count, their memory, who holds the feeds, what is left over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from ..tasks import Tasks
from .checker import Violation
from .stage import FEEDS, Lease, Stage

COUNTED = ("repairs", "resets", "takeovers", "reconciles", "slow_sessions")
OPEN = ("connections", "subscriptions", "channels")  # none of them is left when every client is gone
SPARE = 10  # tasks that there may be more of: a repair or a request may be under way
GONE = 15.0  # seconds for a node to let go of what nobody uses; a channel is kept for 5
GROWTH = 64  # MiB that a node may have grown since it was up; of a million rows in one transaction it takes 9
PAGE = 1000
WEIGH = 0.2  # seconds between two looks at their memory
LOOK = 0.05  # seconds between two looks at the holders

Numbers = Counter[str]


class Outage:
    """Of one feed: from when on its holder is dead or frozen until its lease is another one, or it works again."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.since: float | None = None
        self._token, self._pid = "", 0

    def see(self, lease: Lease, now: float, *, others: bool) -> float | None:
        """Its length in seconds, once it is over. `others`: there are other nodes that work, and so could take it."""
        if lease.token != self._token:
            self._token, self._pid = lease.token, lease.holder.pid
        if not others:
            self.since = None
        elif not lease.holder.works or lease.holder.pid != self._pid:
            self.since = now if self.since is None else self.since
        elif self.since is not None:
            seconds, self.since = now - self.since, None
            return seconds
        return None


class Watch:
    """`most`: MiB, what any node had at most."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._http = AsyncHTTPClient(force_instance=True)
        self._counted: dict[object, Numbers] = {}  # by process: one that starts again counts from nothing
        self._first: dict[int, int] = {}  # by process, its memory at the first look
        self._told: set[int] = set()  # processes that have grown out of bounds
        self._tasks_before = 0
        self.most = 0

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

    async def clear(self, channel: str) -> bool:
        """Delete every item by REST; whether they are gone."""
        for key in await self.read(channel) or {}:
            for address in self._stage.addresses()[:1]:
                with suppress(HTTPClientError, OSError):
                    await self._http.fetch(f"{address}/v1/{channel}/{quote(key, safe='')}", method="DELETE")
        return await self.read(channel) == {}

    async def look(self) -> None:
        """Count what the nodes counted."""
        for of, address in self._processes():
            if numbers := await self._numbers(address):
                self._counted[of] = numbers

    @asynccontextmanager
    async def memory(self) -> AsyncIterator[list[Violation]]:
        """Look at the nodes' memory all the while; once told, one that has grown out of bounds is not told again."""
        found: list[Violation] = []
        tasks = Tasks()
        tasks.start(self._weigh(found), "memory of the nodes")
        try:
            yield found
        finally:
            await tasks.close()

    async def _weigh(self, found: list[Violation]) -> None:
        while True:
            found += filter(None, [self._grown(node.pid) for node in self._stage.nodes if node.up])
            await asyncio.sleep(WEIGH)

    def counts(self) -> dict[str, int]:
        """By name, over all nodes and all of their lives."""
        total: Numbers = sum(self._counted.values(), Counter())
        return {name: sum(n for of, n in total.items() if _name(of) == name) for name in COUNTED}

    async def before(self) -> None:
        """Count what the nodes are about, before there is any client."""
        self._tasks_before = sum([_tasks(await self._numbers(address)) for _, address in self._processes()])

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
        """Seconds, of each time that a feed had a holder that was dead or frozen, while there were others."""
        found: list[float] = []
        outages = [Outage(store) for store in FEEDS if self._stage.nodes]
        tasks = Tasks()
        for each in outages:
            tasks.start(self._follow(each, found), f"holder of {each.store}")
        try:
            yield found
        finally:
            await tasks.close()
            found += (time.monotonic() - each.since for each in outages if each.since is not None)

    async def _follow(self, outage: Outage, found: list[float]) -> None:
        while True:
            lease, now = await self._stage.lease(outage.store), time.monotonic()
            if lease is not None:
                others = any(node.works for node in self._stage.nodes if node is not lease.holder)
                seconds = outage.see(lease, now, others=others)
                found += [] if seconds is None else [seconds]
            await asyncio.sleep(LOOK)

    async def _open(self) -> list[str]:
        left, tasks = [], 0  # of all nodes together, as the feeds may move from one to another
        for node in self._stage.nodes:
            numbers = await self._numbers(node.address)
            tasks += _tasks(numbers)
            if not numbers:
                left.append(f"{node.name} does not say what it has")
            left += [f"{node.name} has {n:g} {_name(of)}" for of, n in numbers.items() if _name(of) in OPEN and n]
        if (more := tasks - self._tasks_before) > SPARE:
            left.append(f"the nodes have {more} tasks more than before")
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
        """Since it was first up; memory that it has not given back yet is not told as new."""
        memory = memory_of(pid)
        self.most = max(self.most, memory)
        growth = memory - self._first.setdefault(pid, memory)
        if growth <= GROWTH or pid in self._told:
            return None
        self._told.add(pid)
        return Violation("I6", f"process {pid} has grown by {growth} MiB to {memory} MiB")


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


def _tasks(numbers: Numbers) -> int:
    return sum(n for of, n in numbers.items() if _name(of) == "tasks")
