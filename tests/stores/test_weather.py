"""WeatherStore with a provider of our own behind a real HTTP server, and with the simulated one."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import resource
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from msgspec import UNSET, Raw
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from realtime import addresses, errors
from realtime.config import PLACES, Place
from realtime.embedded import Embedded
from realtime.protocol import ANYHOW, Change
from realtime.stores.base import Batch, Lost, Spoken
from realtime.stores.keeper import Item, Keeper, MemoryKeeper, RedisKeeper
from realtime.stores.weather import WeatherStore
from realtime.stores.weather_codes import WORDS, words
from realtime.stores.weather_simulated import current
from tests.web import listening, saying

from ..wait import until

BERLIN = PLACES[0]
PERIOD = 0.15  # seconds; short, since tests wait for some of them


class Upstream:
    """The provider: `answer` says what the next requests get."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.temperatures: list[float | None] = [7.4, 21.0, 15.5]
        self.code = 3
        self.time = 1_770_000_000
        self.answer: Callable[[RequestHandler], Any] = self.forecast

    def current(self, temperature: float | None) -> dict[str, object]:
        more = {"weather_code": self.code, "is_day": 1, "wind_speed_10m": 2, "wind_direction_10m": 10}
        return {"time": self.time, "interval": 900, "temperature_2m": temperature, "precipitation": 0.0, **more}

    def forecast(self, handler: RequestHandler) -> None:
        """As Open-Meteo: an object for one place, an array for several; coordinates snapped to its grid."""
        count = len(handler.get_argument("latitude").split(","))
        answers = [
            {"latitude": 0.1, "current_units": {}, "current": self.current(each)} for each in self.temperatures[:count]
        ]
        handler.set_header("Content-Type", "application/json")
        handler.finish(json.dumps(answers[0] if count == 1 else answers))


class Door(RequestHandler):
    def initialize(self, upstream: Upstream) -> None:
        self.upstream = upstream

    async def get(self) -> None:
        arguments = self.request.query_arguments
        self.upstream.requests.append({name: values[0].decode() for name, values in arguments.items()})
        answered = self.upstream.answer(self)
        if answered is not None:
            await answered


@asynccontextmanager
async def provider() -> AsyncIterator[tuple[Upstream, str]]:
    upstream = Upstream()
    async with listening(Application([(r"/v1/forecast", Door, {"upstream": upstream})])) as base:
        yield upstream, f"{base}/v1/forecast"


def store_of(uri: str, keeper: Keeper | None = None, places: tuple[Place, ...] = PLACES) -> WeatherStore:
    return WeatherStore(places, uri=uri, period=PERIOD, keeper=keeper or MemoryKeeper())


async def changes_of(changes: AsyncGenerator[Batch | Lost, None]) -> list[Change]:
    batch = await anext(changes)
    assert isinstance(batch, Batch), batch
    return list(batch.changes)


def value_of(change: Change) -> dict[str, Any]:
    assert change.value is not UNSET
    return cast(dict[str, Any], msgspec.json.decode(change.value))


async def stored(store: WeatherStore) -> dict[str, dict[str, Any]]:
    snapshot = await store.snapshot("current")
    return {key: msgspec.json.decode(value) for key, value in snapshot.items.items()}


# what is asked and what is shown ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_one_request_for_all_places() -> None:
    async with provider() as (upstream, uri), aclosing(store_of(uri).changes(None)) as changes:
        assert isinstance(await anext(changes), Lost)
        found = await changes_of(changes)
        assert [change.key for change in found] == ["berlin", "new-york", "tokyo"]
        assert [change.version for change in found] == sorted({change.version for change in found})
        assert value_of(found[0]) == {
            "city": "Berlin",
            "country": "DE",
            "lat": 52.52,
            "lon": 13.41,
            "temperature_c": 7.4,
            "feels_like_c": None,
            "humidity_pct": None,
            "wind_ms": 2.0,
            "wind_deg": 10.0,
            "condition": "overcast",
            "code": 3,
            "is_day": True,
            "observed_at": "2026-02-02T02:40:00+00:00",
            "provider": "open-meteo",
            "stale": False,
        }
        assert [value_of(change)["temperature_c"] for change in found] == [7.4, 21.0, 15.5]
        assert len(upstream.requests) == 1
        asked = upstream.requests[0]
        assert (asked["latitude"], asked["longitude"]) == ("52.52,40.71,35.69", "13.41,-74.01,139.69")
        assert (asked["timeformat"], asked["wind_speed_unit"]) == ("unixtime", "ms")


@pytest.mark.asyncio
async def test_one_place_is_answered_with_an_object() -> None:
    async with provider() as (_, uri), aclosing(store_of(uri, places=(BERLIN,)).changes(None)) as changes:
        await anext(changes)
        assert [change.key for change in await changes_of(changes)] == ["berlin"]


@pytest.mark.asyncio
async def test_only_differences_are_told() -> None:
    async with provider() as (upstream, uri):
        store = store_of(uri)
        async with aclosing(store.changes(None)) as changes:
            await anext(changes)
            before = await changes_of(changes)
            waiting = asyncio.create_task(changes_of(changes))
            await until(lambda: len(upstream.requests) >= 3)
            upstream.time += 900  # a new observation of the same weather is no news
            await until(lambda: len(upstream.requests) >= 5)
            assert not waiting.done()
            upstream.temperatures[1] = None
            found = await waiting
        assert [(change.key, value_of(change)["temperature_c"]) for change in found] == [("new-york", None)]
        assert found[0].version > before[-1].version
        assert (await store.snapshot("current")).fence == found[0].version


@pytest.mark.asyncio
async def test_a_snapshot_has_what_was_told() -> None:
    async with provider() as (_, uri):
        store = store_of(uri)
        assert await stored(store) == {}
        async with aclosing(store.changes(None)) as changes:
            await anext(changes)
            for change in await changes_of(changes):
                snapshot = await store.snapshot("current", [change.key, "oslo"])
                assert snapshot.items == {change.key: change.value}
                assert store.contains(snapshot.fence, change.version)
        first = await store.snapshot("current", limit=2)
        assert (list(first.items), first.next) == (["berlin", "new-york"], "new-york")
        second = await store.snapshot("current", after=first.next, limit=2)
        assert (list(second.items), second.next) == (["tokyo"], None)


# failures -----------------------------------------------------------------------------------------------------------


def slow(handler: RequestHandler) -> Any:
    return asyncio.sleep(0.3)


def endless(handler: RequestHandler) -> Any:
    async def drip() -> None:
        for _ in range(64):
            handler.write(b" " * (1 << 16))
            await handler.flush()

    return drip()


Answer = Callable[[RequestHandler], Any]
BOMB = gzip.compress(b" " * (64 << 20))
BAD: dict[str, Callable[[Upstream], Answer]] = {
    "limit": lambda upstream: saying(429, b'{"error":true,"reason":"Minutely limit exceeded"}'),
    "down": lambda upstream: saying(503),
    "refusal": lambda upstream: saying(400, b'{"error":true,"reason":"Invalid"}'),
    "refusal with 200": lambda upstream: saying(200, b'{"error":true,"reason":"Invalid"}'),
    "redirect": lambda upstream: saying(302, Location="/v1/forecast?followed=1"),
    "garbage": lambda upstream: saying(200, b"<html>\xff"),
    "another shape": lambda upstream: saying(200, b'[{"current":{"time":"now"}}]'),
    "a time beyond time": lambda upstream: saying(200, b'[{"current":{"time":99999999999999999}}]'),
    "too few": lambda upstream: saying(200, b'[{"current":{"time":1}}]'),
    "nested": lambda upstream: saying(200, b"[" * 100_000),
    "too large": lambda upstream: endless,
    "bomb": lambda upstream: saying(200, BOMB, Content_Encoding="gzip"),
    "slow": lambda upstream: slow,
}


@pytest.mark.expects_logs
@pytest.mark.asyncio
@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_answer_makes_values_stale_and_is_got_over(
    bad: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "REQUEST", 0.2)
    async with provider() as (upstream, uri):
        store = store_of(uri)
        async with aclosing(store.changes(None)) as changes:
            await anext(changes)
            await changes_of(changes)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            upstream.answer = BAD[bad](upstream)
            before = len(upstream.requests)
            stale = await changes_of(changes)
            assert len(upstream.requests) > before
            assert all("followed" not in asked for asked in upstream.requests)
            assert [value_of(change)["stale"] for change in stale] == [True] * 3
            assert [value_of(change)["temperature_c"] for change in stale] == [7.4, 21.0, 15.5]
            assert "error" in (await store.collections())["current"]
            upstream.answer = upstream.forecast
            fresh = await changes_of(changes)
            assert [value_of(change)["stale"] for change in fresh] == [False] * 3
            assert "error" not in (await store.collections())["current"]
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 32 << 10
        warnings = [
            each for each in caplog.records if each.name == "realtime.weather" and each.levelno >= logging.WARNING
        ]
        assert len(warnings) == 1


@pytest.mark.expects_logs
@pytest.mark.asyncio
async def test_retry_after_is_honoured() -> None:
    async with provider() as (upstream, uri), aclosing(store_of(uri).changes(None)) as changes:
        await anext(changes)
        await changes_of(changes)
        upstream.answer = saying(429, b"{}", Retry_After="1")
        before, start = len(upstream.requests), asyncio.get_running_loop().time()
        assert value_of((await changes_of(changes))[0])["stale"]  # said while it waits
        assert len(upstream.requests) == before + 1
        upstream.answer = upstream.forecast
        await changes_of(changes)
        assert asyncio.get_running_loop().time() - start >= 1
        assert len(upstream.requests) == before + 2


@pytest.mark.expects_logs
@pytest.mark.asyncio
async def test_a_provider_that_was_never_there_is_down() -> None:
    async with provider() as (upstream, uri):
        upstream.answer = saying(503)
        store = store_of(uri)
        assert "current" in await store.collections()  # not asked yet
        async with aclosing(store.changes(None)) as changes:
            await anext(changes)
            waiting = asyncio.create_task(changes_of(changes))
            await until(lambda: len(upstream.requests) >= 2)
            with pytest.raises(errors.StoreDown, match="503"):
                await store.collections()
            upstream.answer = upstream.forecast
            assert len(await waiting) == 3
        assert "current" in await store.collections()


@pytest.mark.expects_logs
@pytest.mark.asyncio
async def test_nobody_there_at_all(unused: str) -> None:
    store = store_of(unused)
    async with aclosing(store.changes(None)) as changes:
        await anext(changes)
        waiting = asyncio.create_task(changes_of(changes))
        with pytest.raises(errors.StoreDown):
            await asked_for_ever(store)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def asked_for_ever(store: WeatherStore) -> None:
    while True:
        await store.collections()
        await asyncio.sleep(0)


@pytest.fixture
def unused() -> str:
    socket = bind_sockets(0, "127.0.0.1")[0]
    port = socket.getsockname()[1]
    socket.close()
    return f"http://127.0.0.1:{port}/v1/forecast"


@pytest.mark.parametrize(
    "uri", ["http://weather.example/v1", "file:///etc/passwd", "weather.example", "https://10.0.0.1"]
)
def test_an_address_that_may_not_be_asked_is_refused(uri: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"weather\.uri"):
        store_of(uri)
    WeatherStore(uri=uri, keeper=MemoryKeeper(), simulated=True)  # nobody is asked


@pytest.mark.asyncio
async def test_a_closed_feed_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with provider() as (upstream, uri):
        upstream.answer = slow
        changes = store_of(uri).changes(None)
        await anext(changes)
        waiting = asyncio.create_task(changes_of(changes))
        await until(lambda: bool(upstream.requests))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await changes.aclose()
        count = len(upstream.requests)
        await asyncio.sleep(2 * PERIOD)  # nothing happens: there is no condition for that
        assert len(upstream.requests) == count
    assert not caplog.records


# takeover -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def keeper_of(kind: str, servers: Embedded) -> AsyncIterator[Keeper]:
    keeper = MemoryKeeper() if kind == "memory" else RedisKeeper(servers.urls["redis"], f"t{secrets.token_hex(6)}")
    try:
        yield keeper
    finally:
        await keeper.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_another_node_takes_over(kind: str, servers: Embedded) -> None:
    async with provider() as (upstream, uri), keeper_of(kind, servers) as keeper:
        first, second = store_of(uri, keeper), store_of(uri, keeper)
        async with aclosing(first.changes(None)) as changes:
            mark = (await anext(changes)).mark
            told = await changes_of(changes)
            assert (await second.snapshot("current")).items == (await first.snapshot("current")).items
            async with aclosing(second.changes(mark)) as others:  # the first one was slow to say so
                assert await changes_of(others) == told
                upstream.temperatures[0] = -1.0
                found = await changes_of(others)
                assert [change.key for change in found] == ["berlin"]
                assert found[0].version > told[-1].version
            upstream.temperatures[2] = -2.0
            with pytest.raises(errors.StoreDown):
                await anext(changes)
        async with aclosing(first.changes(told[-1].version)) as changes:
            assert await changes_of(changes) == found
            assert [change.key for change in await changes_of(changes)] == ["tokyo"]


@pytest.mark.asyncio
async def test_a_mark_beyond_what_is_kept_is_lost() -> None:
    async with provider() as (_, uri), aclosing(store_of(uri).changes("019b00000000.0000")) as changes:
        found = await anext(changes)
        assert isinstance(found, Lost)
        assert len(await changes_of(changes)) == 3


class Watched(MemoryKeeper):
    @property
    def items(self) -> dict[str, Item]:
        return self._kept.items


@pytest.mark.asyncio
async def test_a_place_that_is_no_longer_configured_goes() -> None:
    async with provider() as (_, uri):
        keeper = Watched()
        async with aclosing(store_of(uri, keeper).changes(None)) as changes:
            await anext(changes)
            mark = (await changes_of(changes))[-1].version
        store = store_of(uri, keeper, (BERLIN,))
        assert list(await stored(store)) == ["berlin"]
        async with aclosing(store.changes(mark)) as changes:
            gone = await changes_of(changes)
            assert [(change.op, change.key) for change in gone] == [("delete", "new-york"), ("delete", "tokyo")]
            waiting = asyncio.create_task(changes_of(changes))
            await until(lambda: len(keeper.items) == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_a_keeper_saves_only_on_what_is_known(kind: str, servers: Embedded) -> None:
    async with keeper_of(kind, servers) as keeper:
        empty = await keeper.load()
        assert empty.items == {}
        item = Item("1", b'{"a": "b c"}')
        assert await keeper.save(empty.version, "1", {"x": item, "version": item})
        assert not await keeper.save(empty.version, "2", {"x": None})
        kept = await keeper.load()
        assert (kept.version, kept.items) == ("1", {"x": item, "version": item})
        assert await keeper.save("1", "2", {"x": None})
        assert (await keeper.load()).items == {"version": item}


@pytest.mark.asyncio
async def test_a_redis_that_is_down_is_a_store_that_is_down(unused: str) -> None:
    keeper = RedisKeeper(unused.replace("http://", "redis://").partition("/v1")[0])
    store = store_of(unused, keeper)
    with pytest.raises(errors.StoreDown):
        await store.collections()
    with pytest.raises(errors.StoreDown):
        await store.snapshot("current")
    with pytest.raises(errors.StoreDown):
        await anext(store.changes(None))
    await store.close()


# the rest -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_nobody_writes_the_weather() -> None:
    store = WeatherStore(keeper=MemoryKeeper(), simulated=True)
    writes = [
        store.put("current", "berlin", Raw(b"{}"), ANYHOW),
        store.put("current", None, Raw(b"{}"), ANYHOW),
        store.patch("current", "berlin", Raw(b"{}"), ANYHOW),
        store.delete("current", "berlin", ANYHOW),
    ]
    for write in writes:
        with pytest.raises(errors.ReadOnly, match="weather/current is what simulated observes"):
            await write
    with pytest.raises(errors.UnknownChannel):
        await store.snapshot("forecast")
    with pytest.raises(errors.UnknownChannel):
        await store.put("forecast", "berlin", Raw(b"{}"), ANYHOW)


def test_the_tutorial_s_sentence() -> None:
    store: Spoken = WeatherStore(keeper=MemoryKeeper())
    value = {"temperature_c": 7.4, "condition": "overcast", "city": "Berlin", "country": "DE"}

    def say(**other: object) -> str:
        return store.sentence(Raw(msgspec.json.encode(value | other)))

    assert say() == "Currently 7.4 degrees and overcast in Berlin, DE"
    assert say(temperature_c=None) == "Currently overcast in Berlin, DE"
    assert say(condition=None) == "Currently 7.4 degrees in Berlin, DE"
    assert say(condition=None, temperature_c=None) == "Currently unknown weather in Berlin, DE"


@pytest.mark.asyncio
async def test_simulated_weather_says_so_and_moves() -> None:
    store = WeatherStore(keeper=MemoryKeeper(), period=PERIOD, simulated=True)
    async with aclosing(store.changes(None)) as changes:
        await anext(changes)
        first = await changes_of(changes)
        assert {value_of(change)["provider"] for change in first} == {"simulated"}
        assert all(-30 < value_of(change)["temperature_c"] < 45 for change in first)
        await changes_of(changes)


def test_simulated_weather_is_the_same_everywhere_and_warmest_in_the_afternoon() -> None:
    assert current(BERLIN, 1e9, 7) == current(BERLIN, 1e9, 7)

    def mean(hour: float, place: Place) -> float:
        when = (hour - place.lon / 15) * 3600 + 86400 * 10
        return sum(current(place, when, step).temperature_2m or 0 for step in range(50)) / 50

    for place in PLACES:
        assert mean(15, place) > mean(3, place) + 5


def test_words_of_every_code() -> None:
    assert len(WORDS) == 28
    assert len(set(WORDS.values())) == 28
    assert words(None) is None
    assert words(42) == "weather of code 42"
