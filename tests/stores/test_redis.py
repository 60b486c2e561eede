"""RedisStore against a real server: own writes, those of others, the fence under load, breaks."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from msgspec import UNSET, Raw
from msgspec.json import decode
from redis.asyncio import Redis

from realtime import errors
from realtime.protocol import ANYHOW, Change, Condition, etag
from realtime.redis_pubsub import client
from realtime.stores import redis as redis_store
from realtime.stores import redis_foreign
from realtime.stores.base import Lost, Store
from realtime.stores.redis import CHANGES, RedisStore
from realtime.stores.redis_foreign import Foreign
from realtime.verify.proxy import Mode, Proxy
from tests.valkey import Valkey, valkey
from tests.wait import until

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def running() -> Iterator[Valkey]:
    with valkey() as server:
        yield server


@pytest_asyncio.fixture
async def admin(running: Valkey) -> AsyncIterator[Any]:
    """Another program's connection. Any: its annotations do not know that replies are bytes."""
    redis: Redis = client(running.url)
    await redis.flushall()
    await redis.config_set("notify-keyspace-events", "")
    yield redis
    await redis.aclose()


@pytest_asyncio.fixture
async def store(running: Valkey, admin: Any) -> AsyncIterator[RedisStore]:
    async with opened(running.url) as store:
        yield store


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Follower:
    """Reads the changes of a store, and keeps what they come to."""

    def __init__(self, store: Store, mark: str | None) -> None:
        self._store, self.mark = store, mark
        self.lost: list[str] = []
        self.changes: list[Change] = []
        self.reconciled: Counter[str] = Counter()
        self.items: dict[str, Any] = {}  # collection/key

    async def run(self) -> None:
        async with aclosing(self._store.changes(self.mark)) as changes:
            async for found in changes:
                if isinstance(found, Lost):
                    await self._read()
                    self.lost.append(found.reason)
                else:
                    self.changes += found.changes
                    self.reconciled.update(found.reconciled)
                    for change in found.changes:
                        self._apply(change)
                self.mark = found.mark

    def seen(self, collection: str) -> dict[str, Any]:
        return {place.partition("/")[2]: v for place, v in self.items.items() if place.startswith(f"{collection}/")}

    async def _read(self) -> None:
        self.items = {
            f"{collection}/{key}": decode(value)
            for collection in await self._store.collections()
            for key, value in (await self._store.snapshot(collection)).items.items()
        }

    def _apply(self, change: Change) -> None:
        if isinstance(change.value, Raw):
            self.items[f"{change.collection}/{change.key}"] = decode(change.value)
        else:
            self.items.pop(f"{change.collection}/{change.key}", None)


@asynccontextmanager
async def following(store: Store, mark: str | None = None) -> AsyncIterator[Follower]:
    follower = Follower(store, mark)
    task = asyncio.create_task(follower.run())
    try:
        if mark is None:
            await until(lambda: bool(follower.lost) or task.done())
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def put(value: object) -> Raw:
    return Raw(json.dumps(value).encode())


async def items_of(store: Store, collection: str, **how: Any) -> dict[str, Any]:
    return {key: decode(value) for key, value in (await store.snapshot(collection, **how)).items.items()}


# own writes -----------------------------------------------------------------------------------------------------------


async def test_a_write_is_a_value_and_a_change_with_its_version(store: RedisStore, admin: Any) -> None:
    async with following(store) as follower:
        written = await store.put("sensors", "7", put({"t": 22.0}), ANYHOW)
        assert await admin.get("sensors:7") == b'{"t": 22.0}'
        gone = await store.delete("sensors", "7", ANYHOW)
        await until(lambda: len(follower.changes) == 2)
    first, second = follower.changes
    assert (first.collection, first.key, first.op, first.version) == ("sensors", "7", "put", written.version)
    assert (second.op, second.value, second.version) == ("delete", UNSET, gone.version)
    assert written.version < gone.version
    assert abs(first.time - time.time()) < 60
    assert await store.collections() == {}


async def test_the_fence_holds_exactly_what_was_told_by_then(store: RedisStore) -> None:
    one = await store.put("c", "k", put(1), ANYHOW)
    fence = (await store.snapshot("c")).fence
    two = await store.put("c", "k", put(2), ANYHOW)
    assert store.contains(fence, one.version)
    assert not store.contains(fence, two.version)
    empty = await store.snapshot("nothing", ["k"])
    assert store.contains(empty.fence, two.version)


async def test_a_post_makes_keys_that_sort_by_time(store: RedisStore) -> None:
    keys = [(await store.put("c", None, put(n), ANYHOW)).key for n in range(20)]
    assert list(await items_of(store, "c")) == keys == sorted(set(keys))


async def test_conditions(store: RedisStore) -> None:
    await store.put("c", "k", put(1), Condition(exists=False))
    with pytest.raises(errors.Conflict) as caught:
        await store.put("c", "k", put(2), Condition(exists=False))
    assert caught.value.current == b"1"
    with pytest.raises(errors.Conflict):
        await store.put("c", "k", put(2), Condition(etags=(etag(b"0"),)))
    await store.put("c", "k", put(2), Condition(etags=(etag(b"1"),)))
    with pytest.raises(errors.Conflict):
        await store.delete("c", "k", Condition(etags=(etag(b"1"),)))
    await store.delete("c", "k", Condition(exists=True))
    with pytest.raises(errors.NotFound):
        await store.delete("c", "k", ANYHOW)
    with pytest.raises(errors.NotFound):
        await store.patch("c", "k", put({}), ANYHOW)


async def test_of_writers_with_the_same_tag_one_wins(store: RedisStore) -> None:
    await store.put("c", "k", put(0), ANYHOW)
    condition = Condition(etags=(etag(b"0"),))
    tries = [store.put("c", "k", put(n), condition) for n in range(1, 11)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert [isinstance(outcome, errors.Conflict) for outcome in outcomes].count(False) == 1


async def test_patches_at_once_all_land(store: RedisStore) -> None:
    await store.put("c", "k", put({"gone": 1}), ANYHOW)
    patches = [store.patch("c", "k", put({f"f{n}": n, "gone": None}), ANYHOW) for n in range(8)]
    await asyncio.gather(*patches)
    assert await items_of(store, "c") == {"k": {f"f{n}": n for n in range(8)}}


async def test_what_is_not_ours_to_write(store: RedisStore, admin: Any) -> None:
    await admin.hset("c:hash", "f", "1")
    for write in (store.put("c", "hash", put(1), ANYHOW), store.patch("c", "hash", put({"f": 2}), ANYHOW)):
        with pytest.raises(errors.Refused, match="is a hash"):
            await write
    for collection in ("realtime", "no/such", ""):
        with pytest.raises(errors.UnknownChannel):
            await store.put(collection, "k", put(1), ANYHOW)
    for collection, key in (("default", "a:b"), ("default", "realtime:x"), ("c", ""), ("c", "a\nb"), ("c", "x" * 201)):
        with pytest.raises(errors.Refused):
            await store.put(collection, key, put(1), ANYHOW)
        assert (await store.snapshot(collection, [key])).items == {}
    assert await admin.keys("*") == [b"c:hash"]


# what others write ----------------------------------------------------------------------------------------------------


async def test_names_and_values_of_others(store: RedisStore, admin: Any) -> None:
    await admin.mset({"sensors:7": "22.0", "sensors:a:b": '{ "x" :\n 1 }', "plain": "text", "odd name:1": b"\xff"})
    await admin.mset({"default:k": "1", "sensors:": "no key", "realtime:secret": "1", b"c:\xff": "not utf-8"})
    await admin.hset("sensors:hash", mapping={"temp": "1.50", "name": "x"})
    await admin.rpush("sensors:list", "b", "1", "b")
    await admin.sadd("sensors:set", "c", "a", "b")
    await admin.zadd("sensors:zset", {"one": 1, "half": 0.5})
    await admin.xadd("sensors:stream", {"f": "v"})
    async with following(store) as follower:
        assert follower.seen("sensors") == {
            "7": 22.0,
            "a:b": {"x": 1},
            "hash": {"temp": 1.5, "name": "x"},
            "list": ["b", 1, "b"],
            "set": ["a", "b", "c"],
            "zset": {"one": 1, "half": 0.5},
        }
        assert follower.seen("default") == {"plain": "text", "odd name:1": "\ufffd", "default:k": 1}
        assert sorted(await store.collections()) == ["default", "sensors"]
    raw = await store.snapshot("sensors", ["7", "a:b", "missing"])
    assert {key: bytes(value) for key, value in raw.items.items()} == {"7": b"22.0", "a:b": b'{"x":1}'}


async def test_writes_of_others_are_told(store: RedisStore, admin: Any) -> None:
    async with following(store) as follower:

        async def shows(expected: dict[str, Any]) -> None:
            await until(lambda: follower.seen("c") == expected, 3)

        await admin.set("c:a", "1")
        await shows({"a": 1})
        await admin.mset({"c:b": "2", "c:d": "3"})
        await shows({"a": 1, "b": 2, "d": 3})
        await admin.rename("c:a", "c:e")
        await admin.delete("c:b")
        await shows({"d": 3, "e": 1})
        await admin.hset("c:h", "f", "1")
        await admin.hset("c:h", "g", "2")
        await shows({"d": 3, "e": 1, "h": {"f": 1, "g": 2}})
        await admin.hdel("c:h", "f", "g")
        await admin.pexpire("c:d", 20)
        await shows({"e": 1})
        await admin.eval("redis.call('SET', 'c:e', 'x')", 0)
        await shows({"e": "x"})
        assert await items_of(store, "c") == {"e": "x"}
        assert len(follower.lost) == 1


async def test_the_same_value_again_is_nothing_new(store: RedisStore, admin: Any) -> None:
    async with following(store) as follower:
        await admin.set("c:a", "1")
        await store.put("c", "b", put(1), ANYHOW)
        await admin.set("c:a", "1")
        await admin.set("c:last", "1")
        await until(lambda: "last" in follower.seen("c"))
        assert sorted(change.key for change in follower.changes) == ["a", "b", "last"]


async def test_many_fast_writes_end_in_the_last(store: RedisStore, admin: Any) -> None:
    async with following(store) as follower:
        for n in range(500):
            await admin.set(f"c:{n % 7}", n)
        await until(lambda: sorted(follower.seen("c").values()) == list(range(493, 500)))
        versions = [change.version for change in follower.changes]
        assert versions == sorted(set(versions))
        assert await items_of(store, "c") == follower.seen("c")


async def test_flushed_or_swapped_is_lost_and_soon(store: RedisStore, admin: Any) -> None:
    await store.put("c", "k", put(1), ANYHOW)
    async with following(store) as follower:
        assert follower.seen("c") == {"k": 1}
        await admin.flushdb()
        await until(lambda: len(follower.lost) == 2, 3)
        assert follower.items == {}
        other = await store.put("c", "k", put(2), ANYHOW)
        await until(lambda: follower.seen("c") == {"k": 2})
        assert other.version == follower.changes[-1].version
        await admin.swapdb(0, 5)
        await admin.set("c:swapped", "1")
        await until(lambda: len(follower.lost) == 3 and follower.seen("c") == {"swapped": 1}, 3)


@pytest.mark.expects_logs
async def test_notifications_that_were_lost_are_made_up_for(
    store: RedisStore, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtime.stores.redis")
    async with following(store) as follower:
        await admin.set("c:old", "1")
        await until(lambda: follower.seen("c") == {"old": 1})
        await admin.config_set("notify-keyspace-events", "")
        await admin.set("c:new", "1")
        await admin.delete("c:old")
        await admin.client_kill_filter(_type="pubsub")
        await until(lambda: follower.seen("c") == {"new": 1})
        await admin.set("c:newer", "1")  # and they were asked for again
        await until(lambda: "newer" in follower.seen("c"), 1)
    assert follower.reconciled == {"notification": 2, "sweep": 2}
    assert caplog.messages.count("a look at all keys found 2 writes by others") == 1


@pytest.mark.expects_logs
async def test_a_break_during_a_sweep_is_followed_by_another(
    store: RedisStore, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written behind it is not left to the next sweep that is due."""
    usual, sweeps = Foreign._names, list[Foreign]()
    end = asyncio.Event()

    async def held(self: Foreign) -> AsyncIterator[Sequence[bytes]]:
        async for names in usual(self):
            yield names
        sweeps.append(self)
        await end.wait()

    async with following(store) as follower:
        monkeypatch.setattr(Foreign, "_names", held)
        await admin.client_kill_filter(_type="pubsub")
        await until(lambda: bool(sweeps))
        await admin.config_set("notify-keyspace-events", "")
        await admin.set("c:new", "1")
        await admin.client_kill_filter(_type="pubsub")
        await until(lambda: sweeps[0]._again)
        end.set()
        await until(lambda: follower.seen("c") == {"new": 1}, 3)


@pytest.mark.expects_logs
async def test_a_server_that_does_not_notify_is_swept(caplog: pytest.LogCaptureFixture) -> None:
    with valkey("--rename-command", "CONFIG", "") as server:
        other: Any = client(server.url)
        async with opened(server.url) as store, following(store) as follower:
            await other.set("c:k", "1")
            await until(lambda: follower.seen("c") == {"k": 1}, 4)
        await other.aclose()
    assert len([record for record in caplog.records if "config set notify-keyspace-events" in record.message]) == 1


async def test_what_happened_while_nobody_looked(store: RedisStore, admin: Any) -> None:
    async with following(store) as follower:
        await admin.mset({"c:a": "1", "c:b": "1"})
        await until(lambda: len(follower.changes) == 2)
    await store.put("c", "own", put(1), ANYHOW)
    await admin.set("c:a", "2")
    await admin.delete("c:b")
    async with following(store, follower.mark) as later:
        await until(lambda: len(later.changes) == 3)
        assert later.items == {"c/own": 1, "c/a": 2}
        assert not later.lost


# snapshots in several steps -------------------------------------------------------------------------------------------


async def test_pages(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "PAGE", 10)
    keys = sorted(f"k{n}é" for n in range(57))
    for key in keys:
        await store.put("c", key, put(1), ANYHOW)
    assert list((await store.snapshot("c")).items) == keys
    assert list((await store.snapshot("c", keys[::2])).items) == keys[::2]
    seen: list[str] = []
    after: str | None = None
    for size in (25, 25, 7):
        page = await store.snapshot("c", after=after, limit=25)
        assert len(page.items) == size
        seen += page.items
        after = page.next
    assert (seen, after) == (keys, None)


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_snapshot_under_load_is_of_one_moment(
    store: RedisStore, admin: Any, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    """Whatever is told beyond the fence, applied to the snapshot, gives the end, and no value comes before an older."""
    monkeypatch.setattr(redis_store, "PAGE", 10)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    stop = False

    async def write() -> None:
        n = 0
        while not stop:
            n += 1
            key = f"k{dice.randrange(80):02}"
            if foreign and n % 2:
                await (admin.set(f"c:{key}", n) if dice.random() < 0.8 else admin.delete(f"c:{key}"))
            elif dice.random() < 0.8 or not await admin.exists(f"c:{key}"):
                await store.put("c", key, put(n), ANYHOW)
            else:
                await store.delete("c", key, ANYHOW)
            await store.put("c", "last", put(n), ANYHOW)  # each snapshot misses some, in its last step

    async with following(store) as follower:
        writer = asyncio.create_task(write())
        snapshots = []
        for _ in range(15):
            snapshots.append(await store.snapshot("c"))
            await asyncio.sleep(0.01)
        stop = True
        await writer
        end = {name.decode()[2:]: int(await admin.get(name)) for name in await admin.keys("c:*")}
        await until(lambda: follower.seen("c") == end)
        assert await items_of(store, "c") == end
    for snapshot in snapshots:
        items = {key: int(bytes(value)) for key, value in snapshot.items.items()}
        for change in follower.changes:
            if not store.contains(snapshot.fence, change.version):
                value = int(bytes(change.value)) if isinstance(change.value, Raw) else None
                assert value is None or value >= items.get(change.key, 0)
                items.pop(change.key, None) if value is None else items.update({change.key: value})
        assert items == end


# marks and breaks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["1-1", "garbage", "99999999999999-0"])
async def test_a_mark_that_is_not_known_is_lost(store: RedisStore, mark: str) -> None:
    await store.put("c", "k", put(1), ANYHOW)
    async with aclosing(store.changes(mark)) as changes:
        assert isinstance(await anext(changes), Lost)


async def test_a_mark_that_was_trimmed_is_lost(store: RedisStore, admin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "RETENTION", 10)
    async with following(store) as follower:
        pass
    for n in range(300):
        await store.put("c", "k", put(n), ANYHOW)
    assert await admin.xlen(CHANGES) < 300
    async with following(store, follower.mark) as later:
        await until(lambda: len(later.lost) == 1)


@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_a_server_that_was_killed(data: str) -> None:
    with valkey("--appendonly", "yes" if data == "kept" else "no") as server:
        async with opened(server.url) as store:
            async with following(store) as follower:
                before = await store.put("c", "k", put(1), ANYHOW)
                await until(lambda: len(follower.changes) == 1)
            server.kill()
            with pytest.raises(errors.StoreDown):
                await store.put("c", "k", put(0), ANYHOW)
            server.start()
            after = await store.put("c", "k", put(2), ANYHOW)
            assert after.version > before.version
            async with following(store, follower.mark) as later:
                await until(lambda: later.seen("c") == {"k": 2})
                assert bool(later.lost) == (data == "lost")


async def test_an_acknowledged_write_that_the_server_lost_is_lost(store: RedisStore, admin: Any) -> None:
    """As after a power cut: the stream ends before the mark, and goes on behind it."""
    async with following(store) as follower:
        await store.put("c", "k", put(1), ANYHOW)
        await until(lambda: len(follower.changes) == 1)
    assert follower.mark is not None
    await admin.xdel(CHANGES, follower.mark)
    await store.put("c", "other", put(2), ANYHOW)
    async with following(store, follower.mark) as later:
        await until(lambda: len(later.lost) == 1)


@pytest.mark.expects_logs
@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
async def test_a_server_that_does_not_answer(running: Valkey, admin: Any, mode: Mode) -> None:
    async with Proxy(("127.0.0.1", running.port)) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
        follower = Follower(store, None)
        task = asyncio.create_task(follower.run())
        await until(lambda: bool(follower.lost))
        proxy.mode = mode
        if mode == "refuse":
            proxy.reset()
        began = time.monotonic()
        calls = [store.collections(), store.snapshot("c"), store.put("c", "k", put(1), ANYHOW)]
        for outcome in await asyncio.gather(*calls, task, return_exceptions=True):
            assert isinstance(outcome, errors.StoreDown)
        assert time.monotonic() - began < 8
        proxy.mode = "ok"
        await store.put("c", "k", put(2), ANYHOW)
        async with following(store, follower.mark) as later:
            await until(lambda: later.seen("c") == {"k": 2})


@pytest.mark.expects_logs
async def test_a_write_whose_answer_is_lost_is_in_doubt_and_not_answered_by_its_repetition(
    running: Valkey, admin: Any
) -> None:
    async with Proxy(("127.0.0.1", running.port)) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
        await store.put("c", "k", put(1), ANYHOW)
        proxy.mode = "deaf"
        deleting = asyncio.create_task(store.delete("c", "k", ANYHOW))
        async with asyncio.timeout(10):
            while await admin.exists("c:k"):  # noqa: ASYNC110 - the server does not tell
                await asyncio.sleep(0.01)
        proxy.mode = "ok"
        proxy.reset()
        with pytest.raises(errors.StoreDown):
            await deleting
        await store.put("c", "k", put(2), ANYHOW)


@pytest.mark.expects_logs
async def test_a_store_that_was_never_up(running: Valkey) -> None:
    async with Proxy(("127.0.0.1", running.port)) as proxy:
        proxy.mode = "refuse"
        async with opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
            with pytest.raises(errors.StoreDown):
                await store.collections()
            with pytest.raises(errors.StoreDown):
                async with aclosing(store.changes(None)) as changes:
                    await anext(changes)


async def test_changes_that_end_leave_nothing_behind(store: RedisStore, admin: Any) -> None:
    async with following(store):
        pass
    before = len(await admin.client_list())
    for _ in range(5):
        async with following(store):
            pass
    assert len(await admin.client_list()) <= before
    assert not [task for task in asyncio.all_tasks() if "redis" in task.get_name() or "pub/sub" in task.get_name()]


async def test_a_sweep_is_due_when_too_much_waits(
    store: RedisStore, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_foreign, "WAITING", 3)
    async with following(store) as follower:
        await admin.mset({f"c:{n}": n for n in range(50)})
        await until(lambda: len(follower.seen("c")) == 50)
