"""The wall clock jumps; time goes on. Leases stay where they are, versions grow, and everything moves as before."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
import redis.asyncio
from msgspec import Raw
from tornado.httpclient import AsyncHTTPClient

from realtime.app import Service
from realtime.embedded import Embedded
from realtime.protocol import ANYHOW
from realtime.stores.base import Batch
from realtime.stores.keeper import MemoryKeeper
from realtime.stores.redis import CHANGES, RedisStore
from realtime.stores.weather import WeatherStore
from tests import fakeclock
from tests.cluster import address, cluster
from tests.stores.test_redis import following
from tests.test_story import CASES
from tests.valkey import valkey
from tests.wait import until
from tests.watcher import Watcher, watching

HOUR = 3600.0


class Clock:
    """What `time.time()` says: the truth, and so many seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, truth: Callable[[], float] = time.time) -> None:
        self.off = 0.0
        monkeypatch.setattr("time.time", lambda: truth() + self.off)


def takeovers(nodes: list[Service]) -> float:
    values = [node.metrics.takeovers.labels(feed.store.name)._value.get() for node in nodes for feed in node.feeds]
    return float(sum(values))


@pytest.mark.asyncio
async def test_a_clock_that_jumps_takes_nothing_back(servers: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour to either side and back again, on every node at once."""
    monkeypatch.setattr("realtime.app.DEMO_PERIOD", 0.1)
    monkeypatch.setattr("realtime.brokers.redis_lease.RENEWAL", 0.02)  # so that there are renewals after each jump
    clock = Clock(monkeypatch)
    async with cluster(servers) as nodes:
        here, there = nodes
        watchers = {store: Watcher(lambda: address(there), case.channel) for store, case in CASES.items()}
        weather = Watcher(lambda: address(there), "weather/current")
        async with watching(weather, *watchers.values()):
            before = takeovers(nodes)
            for off in (0, HOUR, -HOUR, 0):
                clock.off = off
                word = f"the clock is {off:+g} s off"
                for store, case in CASES.items():
                    url, body = f"{address(here)}/v1/{case.channel}/{case.key}", json.dumps(case.value(word))
                    await AsyncHTTPClient().fetch(url, method="PUT", body=body)
                    await until(lambda: case.of(watchers[store].items.get(case.key, case.value(""))) == word)  # noqa: B023
                seen = weather.observer.counts["event"]
                await until(lambda: weather.observer.counts["event"] > seen + 3, 5)  # noqa: B023
            assert takeovers(nodes) == before
        for watcher in (weather, *watchers.values()):
            assert (watcher.wrong, watcher.closed, watcher.observer.counts["reset"]) == ([], [], 0)


def test_the_weather_is_asked_for_once_a_period_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        clock = Clock(monkeypatch, lambda: 1.8e9 + loop.time())
        store, period, versions = WeatherStore(keeper=MemoryKeeper(), period=60, simulated=True), 60.0, list[str]()
        async with aclosing(store.changes(None)) as changes:
            await anext(changes)
            for off in (0, HOUR, HOUR, -HOUR, -HOUR, 0, 0):
                clock.off, began = off, loop.time()
                found = await anext(changes)
                assert loop.time() - began < 3 * period  # where it has not changed, there is no news
                assert isinstance(found, Batch)
                versions += [change.version for change in found.changes]
        assert versions == sorted(set(versions))

    fakeclock.run(story())


@pytest.mark.asyncio
async def test_versions_of_redis_grow_where_its_own_clock_went_back() -> None:
    """Its last change is an hour ahead, as it is after that."""
    with valkey() as server:
        admin: Any = redis.asyncio.from_url(server.url)
        store = RedisStore(server.url)
        await store.open()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            stack.push_async_callback(admin.aclose)
            follower = await stack.enter_async_context(following(store))
            await store.put("c", "k", Raw(b"1"), ANYHOW)
            [(last, _)] = await admin.xrevrange(CHANGES, count=1)
            ahead = f"{int((time.time() + HOUR) * 1000)}-0"
            await admin.xadd(CHANGES, {"after": last, "name": "", "kind": "none", "raw": ""}, id=ahead)
            for value in range(2, 5):
                await store.put("c", "k", Raw(b"%d" % value), ANYHOW)
            await until(lambda: follower.seen("c") == {"k": 4})
            versions = [change.version for change in follower.changes]
            assert versions == sorted(set(versions))
            assert len(versions) == 4
            assert len(follower.lost) == 1
