"""The contract of `stores.base`, rule by rule, for every store on its real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from realtime.embedded import Embedded
from realtime.errors import Conflict, NotFound, UnknownChannel
from realtime.protocol import ANYHOW, Change, Condition, beyond, etag
from realtime.stores.base import Batch, Lost, Store
from realtime.stores.memory import MemoryStore
from realtime.stores.mongo import MongoStore
from realtime.stores.postgres import PostgresStore
from realtime.stores.redis import RedisStore
from tests.cluster import drop, fresh

pytestmark = pytest.mark.asyncio


@dataclass
class Case:
    """A store, a collection of it, keys in the store's own order, and what a count looks like as a value there."""

    store: Store
    collection: str
    keys: tuple[str, str, str]
    again: Callable[[], Store]  # the same store as another node has it

    def value(self, count: int) -> Raw:
        if self.collection == "entries":
            return raw({"slug": f"s{count}", "title": str(count)})
        return raw({"n": count})

    def count(self, value: object) -> int:
        plain = msgspec.json.decode(value)  # type: ignore[call-overload]
        return int(plain["title"] if self.collection == "entries" else plain["n"])

    async def put(self, key: str, count: int, condition: Condition = ANYHOW) -> Any:
        return await self.store.put(self.collection, key, self.value(count), condition)


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


@asynccontextmanager
async def made(kind: str, servers: Embedded) -> AsyncIterator[Case]:
    urls = await fresh(servers)
    memory, slot = MemoryStore("memory"), f"t_{token_hex(6)}"
    makers: dict[str, Callable[[], Store]] = {
        "memory": lambda: memory,
        "postgres": lambda: PostgresStore(urls["postgres"], slot=slot),
        "mongo": lambda: MongoStore(urls["mongo"]),
        "redis": lambda: RedisStore(urls["redis"]),
    }
    store = makers[kind]()
    keys = ("1", "2", "3") if kind == "postgres" else ("a", "b", "c")
    await store.open()
    try:
        yield Case(store, "entries" if kind == "postgres" else "things", keys, makers[kind])
    finally:
        await store.close()
        await drop(servers, urls)


@pytest.fixture(params=["memory", "postgres", "mongo", "redis"])
def case(request: pytest.FixtureRequest, servers: Embedded) -> Callable[[], Any]:
    return lambda: made(request.param, servers)


Made = Callable[[], Any]


class Reader:
    """Reads `changes` in a task, as a feed does; keeps what came."""

    def __init__(self, store: Store, mark: str | None) -> None:
        self.said: list[Batch | Lost] = []
        self.mark = mark
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read(store), name="reader")

    async def _read(self, store: Store) -> None:
        async with aclosing(store.changes(self.mark)) as changes:
            async for found in changes:
                async with self._news:
                    self.said.append(found)
                    self.mark = found.mark
                    self._news.notify_all()

    @property
    def changes(self) -> list[Change]:
        return [change for found in self.said if isinstance(found, Batch) for change in found.changes]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._news:
            while not holds():
                if self._task.done():
                    self._task.result()
                await self._news.wait()

    async def ended(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@asynccontextmanager
async def reading(store: Store, mark: str | None = None) -> AsyncIterator[Reader]:
    """A reader that has been told its start."""
    reader = Reader(store, mark)
    try:
        if mark is None:
            await reader.until(lambda: bool(reader.said))
        yield reader
    finally:
        await reader.ended()


# 1. A channel is `store/collection`; a collection maps string keys to JSON values.


async def test_1_what_is_put_is_there(case: Made) -> None:
    async with case() as it:
        for count, key in enumerate(it.keys):
            await it.put(key, count)
        snapshot = await it.store.snapshot(it.collection)
        assert {key: it.count(value) for key, value in snapshot.items.items()} == dict(
            zip(it.keys, range(3), strict=True)
        )
        assert it.collection in await it.store.collections()
        some = await it.store.snapshot(it.collection, [it.keys[1], it.keys[0] + "99"])
        assert list(some.items) == [it.keys[1]]


async def test_1_pages_follow_each_other(case: Made) -> None:
    async with case() as it:
        for count, key in enumerate(it.keys):
            await it.put(key, count)
        first = await it.store.snapshot(it.collection, limit=2)
        second = await it.store.snapshot(it.collection, limit=2, after=first.next)
        assert (list(first.items), first.next) == (list(it.keys[:2]), it.keys[1])
        assert (list(second.items), second.next) == ([it.keys[2]], None)
        exactly = await it.store.snapshot(it.collection, limit=3)
        assert exactly.next is None


async def test_1_a_new_item_gets_a_key_of_its_own(case: Made) -> None:
    async with case() as it:
        made = [await it.store.put(it.collection, None, it.value(count), ANYHOW) for count in range(3)]
        assert len({each.key for each in made}) == 3
        snapshot = await it.store.snapshot(it.collection)
        assert {each.key for each in made} == set(snapshot.items)


# 2. A write goes to the store and nowhere else. It returns a version: the first change of that key at or above it is
#    this write.


async def test_2_the_first_change_at_or_above_the_version_is_the_write(case: Made) -> None:
    async with case() as it, reading(it.store) as reader:
        versions = {}
        for count in range(1, 20):
            key = it.keys[count % 3]
            versions[key, count] = (await it.put(key, count)).version
        await reader.until(lambda: len(reader.changes) >= 19)
        for (key, count), version in versions.items():
            first = next(change for change in reader.changes if change.key == key and change.version >= version)
            assert it.count(first.value) == count


async def test_2_a_write_answers_with_the_value_as_it_is(case: Made) -> None:
    async with case() as it:
        written = await it.put(it.keys[0], 1)
        assert bytes(written.value) == bytes((await it.store.snapshot(it.collection)).items[it.keys[0]])


async def test_2_a_version_promises_a_change(case: Made) -> None:
    """The same value again: either a change comes of it, or the answer says that none does."""
    async with case() as it, reading(it.store) as reader:
        await it.put(it.keys[0], 1)
        again = await it.put(it.keys[0], 1)
        await it.put(it.keys[1], 2)
        await reader.until(lambda: any(change.key == it.keys[1] for change in reader.changes))
        of_it = [change.version for change in reader.changes if change.key == it.keys[0]]
        assert len(of_it) == (2 if again.version else 1)
        assert of_it[-1] >= again.version


async def test_2_patch_merges(case: Made) -> None:
    async with case() as it:
        await it.put(it.keys[0], 1)
        patch = {"title": "2"} if it.collection == "entries" else {"n": 2, "more": {"deep": True}}
        await it.store.patch(it.collection, it.keys[0], raw(patch), ANYHOW)
        value = (await it.store.snapshot(it.collection)).items[it.keys[0]]
        assert it.count(value) == 2
        assert patch.items() <= msgspec.json.decode(value).items()


# 3. `changes(mark)` yields every committed change in commit order and goes on from a mark. What cannot be known is
#    said.


async def test_3_the_first_thing_said_without_a_mark_is_lost(case: Made) -> None:
    async with case() as it:
        await it.put(it.keys[0], 1)
        async with reading(it.store) as reader:
            assert isinstance(reader.said[0], Lost)
            assert reader.said[0].collections is None


async def test_3_every_change_in_order_with_growing_versions(case: Made) -> None:
    async with case() as it, reading(it.store) as reader:
        for count in range(1, 30):
            await it.put(it.keys[count % 3], count)
        await it.store.delete(it.collection, it.keys[0], ANYHOW)
        await reader.until(lambda: len(reader.changes) >= 30)
        *puts, last = reader.changes
        assert [it.count(change.value) for change in puts] == list(range(1, 30))
        assert (last.op, last.key) == ("delete", it.keys[0])
        versions = [change.version for change in reader.changes]
        assert versions == sorted(set(versions))


async def test_3_goes_on_from_a_mark_without_loss(case: Made) -> None:
    """What was written while nobody read is told; of what was told before, no version is new."""
    async with case() as it:
        async with reading(it.store) as reader:
            await it.put(it.keys[0], 1)
            await reader.until(lambda: len(reader.changes) >= 1)
            before = reader.changes[-1].version
        await it.put(it.keys[1], 2)
        async with reading(it.store, reader.mark) as reader:
            await it.put(it.keys[2], 3)
            await reader.until(lambda: any(change.key == it.keys[2] for change in reader.changes))
            assert [found for found in reader.said if isinstance(found, Lost)] == []
            new = [it.count(change.value) for change in reader.changes if change.version > before]
            assert new == [2, 3]


@pytest.mark.expects_logs
async def test_3_a_mark_that_makes_no_sense_is_lost(case: Made) -> None:
    async with case() as it:
        reader = Reader(it.store, "12345678")
        try:
            await reader.until(lambda: bool(reader.said))
            assert isinstance(reader.said[0], Lost)
        finally:
            await reader.ended()


async def test_3_what_is_told_can_be_read(case: Made) -> None:
    async with case() as it, reading(it.store) as reader:
        for count in range(1, 15):
            await it.put(it.keys[0], count)
            await reader.until(lambda: len(reader.changes) >= count)  # noqa: B023
            snapshot = await it.store.snapshot(it.collection, [it.keys[0]])
            assert it.count(snapshot.items[it.keys[0]]) >= it.count(reader.changes[-1].value)


# 4. `snapshot` returns items and a fence; `contains(fence, version)` says exactly whether a change is already in them.


async def test_4_snapshot_and_changes_never_disagree(case: Made) -> None:
    """Snapshots among concurrent writes: each, with the changes that it does not contain, ends at the same items."""
    async with case() as it, reading(it.store) as reader:
        stop = asyncio.Event()

        async def write(key: str) -> int:
            count = 0
            while not stop.is_set():
                count += 1
                await it.put(key, count * 10 + it.keys.index(key))
            return count

        writers = [asyncio.create_task(write(key)) for key in it.keys]
        snapshots = [await it.store.snapshot(it.collection) for _ in range(20)]
        stop.set()
        total = sum(await asyncio.gather(*writers))
        await reader.until(lambda: len(reader.changes) >= total)
        final = {key: it.count(value) for key, value in (await it.store.snapshot(it.collection)).items.items()}
        for snapshot in snapshots:
            items = {key: it.count(value) for key, value in snapshot.items.items()}
            for change in reader.changes:
                if not it.store.contains(snapshot.fence, change.version):
                    assert it.count(change.value) >= items.get(change.key, 0)
                    items[change.key] = it.count(change.value)
                assert not (
                    it.store.contains(snapshot.fence, change.version) and beyond(snapshot.fence, change.version)
                )
            assert items == final


async def test_4_a_fence_is_made_of_what_a_url_may_have(case: Made) -> None:
    async with case() as it:
        await it.put(it.keys[0], 1)
        fence = (await it.store.snapshot(it.collection)).fence
        assert fence
        assert set(fence) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


# 5. Errors have the names of `errors`.


async def test_5_conditions_hold_or_conflict(case: Made) -> None:
    async with case() as it:
        key = it.keys[0]
        with pytest.raises(Conflict):
            await it.put(key, 1, Condition(exists=True))
        first = await it.put(key, 1, Condition(exists=False))
        with pytest.raises(Conflict) as caught:
            await it.put(key, 2, Condition(exists=False))
        assert caught.value.current is not None
        assert it.count(caught.value.current) == 1
        seen = Condition((etag(bytes(first.value)),))
        await it.put(key, 2, seen)
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: it.put(key, 3, seen),
            lambda: it.store.patch(it.collection, key, raw({}), seen),
            lambda: it.store.delete(it.collection, key, seen),
        ]
        for write in writes:
            with pytest.raises(Conflict):
                await write()
        assert it.count((await it.store.snapshot(it.collection)).items[key]) == 2


async def test_5_only_one_of_many_that_saw_the_same_value_writes(case: Made) -> None:
    async with case() as it:
        first = await it.put(it.keys[0], 0)
        seen = Condition((etag(bytes(first.value)),))
        tries = [it.put(it.keys[0], count, seen) for count in range(1, 9)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert all(isinstance(outcome, Conflict) for outcome in outcomes if isinstance(outcome, BaseException))


async def test_5_a_missing_key_is_named(case: Made) -> None:
    async with case() as it:
        with pytest.raises(NotFound, match=it.keys[0]):
            await it.store.delete(it.collection, it.keys[0], ANYHOW)
        with pytest.raises(NotFound, match=it.keys[0]):
            await it.store.patch(it.collection, it.keys[0], raw({}), ANYHOW)


async def test_5_an_unknown_table_is_an_unknown_channel(servers: Embedded) -> None:
    """The other stores make a collection with its first item."""
    async with made("postgres", servers) as it:
        with pytest.raises(UnknownChannel, match="nowhere"):
            await it.store.snapshot("nowhere")


# 6. Versions, fences and marks survive a restart of the service and are the same on every node.


async def test_6_another_node_goes_on_from_the_mark_and_knows_the_fence(case: Made) -> None:
    async with case() as it:
        async with reading(it.store) as reader:
            await it.put(it.keys[0], 1)
            await reader.until(lambda: len(reader.changes) >= 1)
        contained = reader.changes[-1].version
        fence = (await it.store.snapshot(it.collection)).fence
        other = it.again()
        await other.open()
        try:
            await it.put(it.keys[0], 2)
            async with reading(other, reader.mark) as reader:
                await reader.until(lambda: any(it.count(change.value) == 2 for change in reader.changes))
                assert [found for found in reader.said if isinstance(found, Lost)] == []
            assert other.contains(fence, contained)
            assert not other.contains(fence, reader.changes[-1].version)
        finally:
            await other.close()
