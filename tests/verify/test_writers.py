"""Writers on real nodes and stores: what was acknowledged is there, what is in doubt is given up, and an end is one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.web import RequestHandler

from realtime.embedded import Embedded
from realtime.errors import Refused
from realtime.protocol import Op
from realtime.verify.checker import Violation
from realtime.verify.journal import Journal
from realtime.verify.outside import BOUND, Outside, outside
from realtime.verify.outside.keys import Keys
from realtime.verify.proxy import Proxy
from realtime.verify.stage import Stage, given_stage, open_stage
from realtime.verify.writers import WRITERS, Writers
from tests.cluster import address, cluster
from tests.process import data_directory
from tests.test_outage import behind_proxy
from tests.verify.answers import serving
from tests.wait import until

# expects_logs: a table that becomes live resets who listens already
pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs, pytest.mark.long]

STORES = ["postgres", "mongo", "redis"]


class Memory(Journal):
    """A journal that remembers, by channel and key, the number of the last write where that is certain."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.certain: dict[tuple[str, str], int] = {}
        self.deleted: set[tuple[str, str, int]] = set()

    def issue(self, channel: str, key: str, op: Op) -> int:
        self.certain.pop((channel, key), None)
        n = super().issue(channel, key, op)
        if op == "delete":
            self.deleted.add((channel, key, n))
        return n

    def ack(self, channel: str, key: str, n: int, *, exact: bool = True) -> None:
        super().ack(channel, key, n, exact=exact)
        self.certain[channel, key] = n

    def expected(self, channel: str) -> dict[str, int | None]:
        """By key, the number of the value that it must have; None: it must be gone."""
        certain = ((key, n) for (of, key), n in self.certain.items() if of == channel)
        return {key: None if (channel, key, n) in self.deleted else n for key, n in certain}


class Site:
    """Nodes, ways past them, and writers; `proxies`, by store, are before the stores for both."""

    def __init__(self, stage: Stage, outside: list[Outside], proxies: dict[str, Proxy], keys: int) -> None:
        self.stage, self.outside, self.proxies = stage, {each.store: each for each in outside}, proxies
        self.journal = Memory()
        self.violations: list[Violation] = []
        dice = random.Random(7)
        self.writers = Writers(stage, self.journal, outside, dice, self.violations.append, keys=keys, pause=0.0)

    @property
    def collection(self) -> str:
        return self.stage.collection

    async def written(self, count: int, *kinds: str) -> None:
        """Wait for so many more writes of each kind, as in "mongo rest"."""
        goals = {kind: self.writers.writes[kind] + count for kind in kinds}
        await until(lambda: all(self.writers.writes[kind] >= goal for kind, goal in goals.items()), 60)

    async def agrees(self, store: str) -> None:
        """What the store has is what is certain."""
        stored = await self.outside[store].read()
        expected = self.journal.expected(f"{store}/{self.collection}")
        assert {key: stored[key]["n"] if key in stored else None for key in expected} == expected
        assert expected

    def given_up(self, store: str) -> list[str]:
        """The keys that took the place of others."""
        return [key for key in self.journal.expected(f"{store}/{self.collection}") if "." in key]


@asynccontextmanager
async def site(servers: Embedded, *, proxied: bool = False, nodes: int = 1, keys: int = 6) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        proxies: dict[str, Proxy] = {}

        async def detour(urls: dict[str, str]) -> None:
            for store in STORES if proxied else []:
                upstream, url = behind_proxy(store, urls[store])
                proxies[store] = await stack.enter_async_context(Proxy(upstream))
                urls[store] = url.format(port=proxies[store].port)

        services = await stack.enter_async_context(cluster(servers, nodes, detour=detour))
        stage = await stack.enter_async_context(given_stage([address(each) for each in services], services.urls))
        yield await stack.enter_async_context(inhabited(stage, proxies, keys))


@asynccontextmanager
async def inhabited(stage: Stage, proxies: dict[str, Proxy] | None = None, keys: int = 6) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        ways = outside(stage)
        for each in ways:
            await each.open()
            stack.push_async_callback(each.close)
            await each.make()
        built = Site(stage, ways, proxies or {}, keys)
        stack.push_async_callback(built.writers.close)
        yield built


async def test_writes_of_every_route_arrive(servers: Embedded) -> None:
    async with site(servers, nodes=2) as here:
        here.writers.start()
        kinds = [f"{store} {way}" for store, each in here.outside.items() for way in ("rest", *each.routes)]
        await here.written(30, *kinds)
        await here.writers.stop()
        assert here.violations == []
        for store in STORES:
            await here.agrees(store)
            stored = await here.outside[store].read()
            assert stored == await shown(here.stage, f"{store}/{here.collection}")
            assert {value["by"] for value in stored.values()} <= {"rest", *here.outside[store].routes}


async def shown(stage: Stage, channel: str) -> dict[str, Any]:
    """What a node says that the collection has."""
    answer = await AsyncHTTPClient().fetch(f"{stage.addresses()[0]}/v1/{channel}?limit=1000")
    items: dict[str, Any] = msgspec.json.decode(answer.body)["items"]
    return items


async def test_stores_in_a_black_hole(servers: Embedded) -> None:
    async with site(servers, proxied=True) as here:
        here.writers.start()
        await here.written(10, *(f"{store} rest" for store in STORES))
        for proxy in here.proxies.values():
            proxy.mode = "blackhole"
        await here.written(1, *(f"{store} in doubt" for store in STORES))
        began = time.monotonic()
        await here.writers.stop()
        assert time.monotonic() - began < BOUND + 2
        for proxy in here.proxies.values():
            proxy.mode = "ok"
            proxy.reset()
        here.writers.start()
        await until(lambda: all(here.given_up(store) for store in STORES), 30)
        await here.writers.stop()
        assert here.violations == []
        for store in STORES:
            await here.agrees(store)


async def test_an_outage_costs_a_key_for_each_writer() -> None:
    kinds = [
        f"{store} {way}"
        for store, past in zip(STORES, ["psql", "mongosh", "redis-cli"], strict=True)
        for way in ("rest", past)
    ]
    with data_directory() as data:
        async with open_stage(data, 1) as stage, inhabited(stage, keys=24) as here:
            here.writers.start()
            await here.written(10, *kinds)
            await asyncio.gather(*(stage.kill_server(store) for store in STORES))
            before = {*here.journal.certain}
            await here.written(10, *(f"{store} in doubt" for store in STORES))
            assert len(before - here.journal.certain.keys()) <= WRITERS * len(STORES)
            for store in STORES:
                await stage.start_server(store)
            await here.written(10, *kinds)
            await here.writers.stop()
            assert here.violations == []
            for store in STORES:
                await here.agrees(store)


async def test_what_a_store_was_made_to_lose_is_forgiven(servers: Embedded) -> None:
    async with site(servers, keys=24) as here:
        here.writers.start()
        await here.written(40, "redis rest")
        here.journal.strike(["redis"], ())
        await here.outside["redis"].drop()
        await here.written(10, "redis rest")
        await here.writers.stop()
        here.journal.settle()
        await here.outside["redis"].drop()  # of what was written since, too, nothing is taken for certain
        here.journal.certain.clear()
        here.writers.start()
        await here.written(60, "redis rest")
        await here.writers.stop()
        assert here.violations == []
        await here.agrees("redis")


async def test_what_a_store_lost_by_itself_is_told(servers: Embedded) -> None:
    async with site(servers, keys=24) as here:
        here.writers.start()
        while not here.violations:
            await here.written(20, "redis rest")
            await here.outside["redis"].drop()
        assert here.violations[0].invariant == "write"
        assert "should be there" in here.violations[0].text


async def test_what_is_refused_is_told(servers: Embedded) -> None:
    async with site(servers) as here:
        with pytest.raises(Refused):
            await here.outside["postgres"].put("a", {"n": None})
        await here.outside["postgres"].drop()
        here.writers.start()
        for way in ("rest", "psql"):
            await until(lambda way=way: any(f"refused by {way}" in each.text for each in here.violations))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("status", "outcome", "told"),
    [(202, "redis rest", False), (503, "redis in doubt", False), (500, "redis in doubt", True), (409, "", True)],
)
async def test_what_an_answer_means(status: int, outcome: str, told: bool) -> None:
    class Answer(RequestHandler):
        def put(self) -> None:
            self.set_status(status)

    violations: list[Violation] = []
    async with serving(Answer) as url, given_stage([url], {}) as stage:
        writers = Writers(stage, Memory(), [], random.Random(7), violations.append, keys=3, pause=0.0)
        writers.start()
        await until(lambda: bool(violations) if told else bool(writers.writes[outcome]))
        await writers.close()
    assert {kind for kind in writers.writes if kind.startswith("redis")} == ({outcome} if outcome else set())
    assert bool(violations) == told


async def test_a_node_that_does_not_answer_is_not_waited_for_long() -> None:
    asked: list[RequestHandler] = []

    class Silence(RequestHandler):
        async def put(self) -> None:
            asked.append(self)
            await asyncio.Event().wait()

    async with serving(Silence) as url, given_stage([url], {}) as stage:
        writers = Writers(stage, Memory(), [], random.Random(7), keys=3)
        writers.start()
        await until(lambda: len(asked) == 2 * WRITERS)
        began = time.monotonic()
        await writers.close()
        assert time.monotonic() - began < BOUND + 2
        assert writers.writes == {"redis in doubt": WRITERS, "mongo in doubt": WRITERS}


async def test_a_writer_that_dies_is_told(servers: Embedded) -> None:
    class Broken(Keys):
        async def put(self, key: str, value: dict[str, Any]) -> None:
            raise ZeroDivisionError

    violations: list[Violation] = []
    async with given_stage([], {"redis": servers.urls["redis"]}) as stage:
        writers = Writers(stage, Memory(), [Broken(stage)], random.Random(7), violations.append, pause=0.0)
        writers.start()
        await until(lambda: sum(task.get_name().startswith("writer") for task in asyncio.all_tasks()) < 2 * WRITERS)
        await writers.close()
    assert "died" in violations[0].text


async def test_of_a_cluster_whose_stores_are_unknown_only_the_service_is_used(servers: Embedded) -> None:
    async with cluster(servers, 1) as services, given_stage([address(services[0])], {}) as stage:
        assert outside(stage) == []
        writers = Writers(stage, Memory(), [], random.Random(7), keys=6, pause=0.0)
        try:
            writers.start()
            await until(lambda: writers.writes["mongo rest"] > 10 and writers.writes["redis rest"] > 10)
        finally:
            await writers.close()
        assert {kind for kind in writers.writes if "in doubt" not in kind} == {"mongo rest", "redis rest"}


async def test_a_probe_is_a_write_to_each_channel_and_to_each_observed_key(servers: Embedded) -> None:
    async with site(servers) as here:
        observed = {(f"redis/{here.collection}", "k1"), (f"redis/{here.collection}", "k4")}
        await here.writers.probe(observed)
        assert {*await here.outside["redis"].read()} == {"k1", "k4"}
        assert [len(await here.outside[store].read()) for store in ("postgres", "mongo")] == [1, 1]
        for store in STORES:
            await here.agrees(store)


async def test_a_probe_goes_on_until_it_is_answered(servers: Embedded) -> None:
    async with site(servers, proxied=True) as here:
        here.proxies["redis"].mode = "refuse"
        here.proxies["redis"].reset()
        probing = asyncio.create_task(here.writers.probe([]))
        await here.written(3, "redis in doubt")
        assert not probing.done()
        here.proxies["redis"].mode = "ok"
        async with asyncio.timeout(30):
            await probing
        assert here.given_up("redis")
        await here.agrees("redis")


async def test_nothing_is_left_behind(servers: Embedded) -> None:
    async with site(servers, proxied=True) as here:
        before = asyncio.all_tasks()
        here.writers.start()
        await here.written(10, *(f"{store} rest" for store in STORES))
        await here.writers.close()
        assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("writer")]
        written = here.writers.writes.total()
        await here.agrees("redis")
        assert here.writers.writes.total() == written
