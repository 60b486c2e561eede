"""MongoStore against a real server: writes, foreign writes, the fence under load, breaks. The types: test_bson_json."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import bson
import msgspec
import pytest
from msgspec import UNSET, Raw
from pymongo import AsyncMongoClient

from realtime import errors
from realtime.embedded import Embedded
from realtime.protocol import ANYHOW, Change, Condition, etag
from realtime.stores.base import Batch, Lost, Snapshot, Store
from realtime.stores.mongo import MongoStore
from realtime.stores.mongo_changes import Place, fence_of, floor_of, read
from realtime.verify.proxy import Mode, Proxy

Database = Any


@pytest.fixture
def name() -> str:
    return f"t{secrets.token_hex(6)}"


@asynccontextmanager
async def opened(url: str, name: str) -> AsyncIterator[MongoStore]:
    store = MongoStore(url, name)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def raw(servers: Embedded, name: str) -> AsyncIterator[Database]:
    """The database as another program sees it; dropped at the end."""
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(servers.urls["mongo"]) as client:
        yield client[name]
        await client.drop_database(name)


@asynccontextmanager
async def both(servers: Embedded, name: str) -> AsyncIterator[tuple[MongoStore, Database]]:
    async with raw(servers, name) as database, opened(servers.urls["mongo"], name) as store:
        yield store, database


async def put(store: Store, key: str | None, value: object, condition: Condition = ANYHOW) -> Any:
    return await store.put("things", key, Raw(msgspec.json.encode(value)), condition)


async def until(changes: AsyncGenerator[Batch | Lost, None], count: int) -> list[Change]:
    found: list[Change] = []
    while len(found) < count:
        batch = await anext(changes)
        assert isinstance(batch, Batch), batch
        found += batch.changes
    return found


def plain(snapshot: Snapshot) -> dict[str, Any]:
    return {key: msgspec.json.decode(value) for key, value in snapshot.items.items()}


def told(change: Change) -> tuple[str, str, Any]:
    value = None if change.value is UNSET else msgspec.json.decode(change.value)
    return change.op, change.key, value


# writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_write_is_answered_with_the_version_of_its_change(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, _), aclosing(store.changes(None)) as changes:
        assert isinstance(await anext(changes), Lost)
        written = [
            await put(store, "a", {"n": 1}),
            await put(store, "a", {"n": 2}),
            await put(store, "a", {"n": 3}, Condition(exists=True)),
            await store.patch("things", "a", Raw(b'{"m":[1]}'), ANYHOW),
            await store.delete("things", "a", ANYHOW),
            await put(store, "a", {"n": 4}, Condition(exists=False)),
        ]
        found = await until(changes, 6)
    assert [told(change)[::2] for change in found] == [
        ("put", {"n": 1}),
        ("put", {"n": 2}),
        ("put", {"n": 3}),
        ("put", {"n": 3, "m": [1]}),
        ("delete", None),
        ("put", {"n": 4}),
    ]
    for answer in written:
        first = next(change for change in found if change.version >= answer.version)
        assert first is found[written.index(answer)]
        assert answer.value == (None if first.value is UNSET else first.value)


@pytest.mark.asyncio
async def test_a_new_item_has_an_object_id(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        written = await put(store, None, {"a": 1})
        assert await database.things.find_one() == {"_id": bson.ObjectId(written.key), "a": 1}
        assert plain(await store.snapshot("things", [written.key])) == {written.key: {"a": 1}}


@pytest.mark.asyncio
async def test_conditions_hold_inside_the_write(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, _):
        with pytest.raises(errors.Conflict):
            await put(store, "a", {}, Condition(exists=True))
        first = await put(store, "a", {"n": 1}, Condition(exists=False))
        with pytest.raises(errors.Conflict) as conflict:
            await put(store, "a", {"n": 2}, Condition(exists=False))
        assert conflict.value.current == b'{"n":1}'
        with pytest.raises(errors.Conflict):
            await store.delete("things", "a", Condition(etags=("other",)))
        matching = Condition(etags=(etag(bytes(first.value)),))
        await store.patch("things", "a", Raw(b'{"n":2}'), matching)
        with pytest.raises(errors.Conflict):
            await put(store, "a", {"n": 3}, matching)


@pytest.mark.asyncio
async def test_patches_at_once_are_all_kept(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        await database.things.insert_one({"_id": "a", "long": bson.Int64(5)})
        names = [f"f{number}" for number in range(8)]
        await asyncio.gather(*(store.patch("things", "a", Raw(b'{"%s":1}' % each.encode()), ANYHOW) for each in names))
        document = await database.things.find_one()
        assert set(document) == {"_id", "long", *names}
        assert type(document["long"]) is bson.Int64


@pytest.mark.asyncio
async def test_what_is_missing_is_not_found(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, _):
        with pytest.raises(errors.NotFound, match="'7'"):
            await store.delete("things", "7", ANYHOW)
        with pytest.raises(errors.NotFound):
            await store.patch("things", "7", Raw(b"{}"), ANYHOW)
        assert (await store.snapshot("things", ["7"])).items == {}


@pytest.mark.asyncio
async def test_the_server_s_own_refusals(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        await database.create_collection("things", validator={"n": {"$type": "int"}})
        await database.things.create_index("u", unique=True)
        await put(store, "a", {"n": 1, "u": 1})
        with pytest.raises(errors.Refused, match="failed validation"):
            await put(store, "b", {"n": "one", "u": 2})
        for condition in (ANYHOW, Condition(exists=False)):
            with pytest.raises(errors.Duplicate, match="u_1"):
                await put(store, "b", {"n": 1, "u": 1}, condition)


@pytest.mark.asyncio
@pytest.mark.parametrize("collection", ["system.users", "a$b", "", "a..b", ".a", "a."])
async def test_no_such_collection(collection: str) -> None:
    store = MongoStore("mongodb://127.0.0.1:1")
    with pytest.raises(errors.UnknownChannel):
        await store.snapshot(collection)


@pytest.mark.asyncio
async def test_a_key_that_nothing_has_is_refused(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, _):
        with pytest.raises(errors.Refused):
            await put(store, '"plain"', {})
        assert (await store.snapshot("things", ['"plain"'])).items == {}


@pytest.mark.asyncio
async def test_a_client_s_json_is_never_a_filter(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        await database.things.insert_many([{"_id": "a", "n": 1}, {"_id": '{"$gt": ""}', "n": 2}])
        assert plain(await store.snapshot("things", ['{"$gt": ""}'])) == {'{"$gt": ""}': {"n": 2}}
        await store.delete("things", '{"$gt": ""}', ANYHOW)
        assert await database.things.count_documents({}) == 1


# reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_pages_go_through_every_type_of_key(servers: Embedded, name: str) -> None:
    ids = [-3, 2, 7.0, 10, "42", "B", "a", "é", bson.ObjectId("0" * 24), bson.ObjectId("f" * 24)]
    keys = ["-3", "2", "7", "10", '"42"', "B", "a", "é", "0" * 24, "f" * 24]
    async with both(servers, name) as (store, database):
        unaddressable = [{"_id": each} for each in (1.5, None, True, {"a": 1}, b"x", bson.Decimal128("2.5"))]
        await database.things.insert_many([{"_id": each, "n": 1} for each in ids] + unaddressable)
        assert list((await store.snapshot("things")).items) == keys
        for limit in (1, 2, 3, 10):
            assert [key async for key in paged(store, limit)] == keys
        assert list((await store.snapshot("things", ["7", '"42"', "x"])).items) == ["7", '"42"']
        for key in keys:
            await store.delete("things", key, ANYHOW)
        assert await database.things.count_documents({}) == len(unaddressable)


async def paged(store: MongoStore, limit: int) -> AsyncIterator[str]:
    after: str | None = None
    while True:
        page = await store.snapshot("things", after=after, limit=limit)
        assert len(page.items) <= limit
        for key in page.items:
            yield key
        if page.next is None:
            return
        after = page.next


@pytest.mark.asyncio
async def test_a_large_collection_is_read_whole(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        await database.things.insert_many([{"_id": number} for number in range(2500)])
        assert len((await store.snapshot("things")).items) == 2500


@pytest.mark.asyncio
async def test_collections(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        assert await store.collections() == {}
        assert plain(await store.snapshot("things")) == {}
        await database.things.insert_one({})
        assert await store.collections() == {"things": {"key": ["_id"]}}


def spoilers(database: Database, stop: asyncio.Event, seed: int) -> list[asyncio.Task[None]]:
    """Three other programs that write to the same few documents as fast as they can."""

    async def spoil(number: int) -> None:
        choose = random.Random(seed + number)
        count = 0
        while not stop.is_set():
            key = choose.randrange(30)
            if choose.random() < 0.2:
                await database.things.delete_one({"_id": key})
            else:
                await database.things.replace_one({"_id": key}, {"v": [number, count]}, upsert=True)
            count += 1

    return [asyncio.create_task(spoil(number), name=f"spoiler {number}") for number in range(3)]


@pytest.mark.asyncio
async def test_the_fence_is_exact_while_others_write(servers: Embedded, name: str) -> None:
    """The changes within a fence make the snapshot; so nothing outside can be older, and nothing is missing."""
    seed = random.randrange(10**6)
    print("seed", seed)
    async with both(servers, name) as (store, database), aclosing(store.changes(None)) as changes:
        await anext(changes)
        stop = asyncio.Event()
        writers = spoilers(database, stop, seed)
        windows: list[tuple[list[str] | None, str | None, int | None]]
        windows = [(None, None, None), (["3", "4", "5"], None, None), (None, "10", 5)]
        taken = [(window, await snapshot(store, *window)) for _ in range(8) for window in windows]
        stop.set()
        await asyncio.gather(*writers)
        await put(store, "end", {})
        found = [change async for change in up_to_end(changes)]
    assert [change.version for change in found] == sorted({change.version for change in found})
    for window, page in taken:
        state: dict[str, Any] = {}
        for change in found:
            if store.contains(page.fence, change.version):
                state[change.key] = None if change.value is UNSET else msgspec.json.decode(change.value)
        live = {key: value for key, value in state.items() if value is not None}
        assert plain(page) == within(live, page, *window)


async def snapshot(store: MongoStore, keys: list[str] | None, after: str | None, limit: int | None) -> Snapshot:
    return await store.snapshot("things", keys, after=after, limit=limit)


def within(
    state: dict[str, Any], page: Snapshot, keys: list[str] | None, after: str | None, limit: int | None
) -> dict[str, Any]:
    """The part of a state that a page shows; its keys here are all integers."""
    if keys is not None:
        return {key: value for key, value in state.items() if key in keys}
    low = -1 if after is None else int(after)
    high = 10**6 if page.next is None else int(page.next)
    return {key: value for key, value in state.items() if low < int(key) <= high}


async def up_to_end(changes: AsyncGenerator[Batch | Lost, None]) -> AsyncIterator[Change]:
    async for batch in changes:
        assert isinstance(batch, Batch)
        for change in batch.changes:
            if change.key == "end":
                return
            yield change


# changes ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_foreign_writes_are_seen(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database), aclosing(store.changes(None)) as changes:
        lost = await anext(changes)
        assert isinstance(lost, Lost)
        assert lost.collections is None
        await database.things.insert_many([{"_id": 1}, {"_id": "x"}, {"_id": None}, {"_id": 2.5}])
        await database.other.insert_one({"_id": 5.0, "when": bson.datetime_ms.DatetimeMS(0)})
        await database.things.update_one({"_id": 1}, {"$set": {"a": 1}})
        await database.things.delete_many({"_id": {"$in": [None, "x"]}})
        found = await until(changes, 5)
    assert [(change.collection, *told(change)) for change in found] == [
        ("things", "put", "1", {}),
        ("things", "put", "x", {}),
        ("other", "put", "5", {"when": {"$date": "1970-01-01T00:00:00Z"}}),
        ("things", "put", "1", {"a": 1}),
        ("things", "delete", "x", None),
    ]


@pytest.mark.asyncio
async def test_each_place_of_a_transaction_can_be_gone_on_from(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database):
        async with aclosing(store.changes(None)) as changes:
            mark = (await anext(changes)).mark
        async with database.client.start_session() as session, await session.start_transaction():
            for number in range(5):
                await database.things.insert_one({"_id": number}, session=session)
        async with aclosing(store.changes(mark)) as changes:
            whole = await until(changes, 5)
        assert len({change.version[:17] for change in whole}) == 1
        assert [change.version for change in whole] == sorted({change.version for change in whole})


@pytest.mark.asyncio
async def test_changes_go_on_from_every_mark(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, _):
        marks: list[str] = []
        async with aclosing(store.changes(None)) as changes:
            marks.append((await anext(changes)).mark)
            for number in range(3):
                await put(store, "a", {"n": number})
                marks.append((await anext(changes)).mark)
        await put(store, "a", {"n": 3})
        versions = []
        async with opened(servers.urls["mongo"], name) as other:
            for count, mark in enumerate(marks):
                async with aclosing(other.changes(mark)) as changes:
                    found = await until(changes, 4 - count)
                    assert [told(change)[2]["n"] for change in found] == list(range(count, 4))
                    versions.append(found[-1].version)
        assert len(set(versions)) == 1


@pytest.mark.asyncio
async def test_a_dropped_or_renamed_collection_is_lost_and_goes_on(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database), aclosing(store.changes(None)) as changes:
        await anext(changes)
        await put(store, "a", {})
        await database.things.rename("others")
        await database.others.drop()
        await put(store, "b", {})
        assert [told(change)[1] for change in await until(changes, 1)] == ["a"]
        assert await lost(changes) == ("things", "others")
        assert await lost(changes) == ("others",)
        assert [told(change)[1] for change in await until(changes, 1)] == ["b"]


async def lost(changes: AsyncGenerator[Batch | Lost, None]) -> tuple[str, ...] | None:
    found = await anext(changes)
    assert isinstance(found, Lost)
    return found.collections


@pytest.mark.asyncio
async def test_a_dropped_database_is_lost_and_goes_on(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database), aclosing(store.changes(None)) as changes:
        await anext(changes)
        await put(store, "a", {})
        await until(changes, 1)
        await database.client.drop_database(name)
        while await lost(changes) is not None:
            pass
        await put(store, "b", {})
        assert [told(change)[1] for change in await until(changes, 1)] == ["b"]


@pytest.mark.asyncio
@pytest.mark.parametrize("spoil", ["garbage", "foreign", "token", "future"])
async def test_a_mark_that_cannot_be_used_is_lost(servers: Embedded, name: str, spoil: str) -> None:
    async with both(servers, name) as (store, _):
        async with aclosing(store.changes(None)) as changes:
            mark = (await anext(changes)).mark
        place = Place.parse(mark, name)
        assert place is not None
        replaced = {
            "garbage": "{",
            "foreign": msgspec.structs.replace(place, database="other").mark,
            "token": msgspec.structs.replace(place, token='{"_data":"82ff"}').mark,
            "future": msgspec.structs.replace(place, time=2**32 - 1).mark,
        }
        async with aclosing(store.changes(replaced[spoil])) as changes:
            found = await anext(changes)
            assert isinstance(found, Lost)
            await put(store, "a", {})  # in the very moment: the new stream is open
            assert [told(change)[1] for change in await until(changes, 1)] == ["a"]


@pytest.mark.asyncio
async def test_what_is_ready_comes_together(servers: Embedded, name: str) -> None:
    async with both(servers, name) as (store, database), aclosing(store.changes(None)) as changes:
        mark = (await anext(changes)).mark
        await database.things.insert_many([{"_id": number} for number in range(500)])
        async with aclosing(store.changes(mark)) as again:
            first = await anext(again)
            assert isinstance(first, Batch)
            assert len(first.changes) > 50


# breaks -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def behind(servers: Embedded, name: str) -> AsyncIterator[tuple[MongoStore, Proxy]]:
    parts = urlsplit(servers.urls["mongo"])
    async with Proxy((parts.hostname or "", parts.port or 0)) as proxy:
        url = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}"))
        async with opened(f"{url.geturl()}&directConnection=true", name) as store:
            yield store, proxy


async def everything(store: MongoStore, mark: str) -> None:
    """Each call says StoreDown within seconds."""

    async def follow() -> None:
        async with aclosing(store.changes(mark)) as changes:
            await anext(changes)

    calls = [store.collections(), store.snapshot("things"), put(store, "a", {}), follow()]
    async with asyncio.timeout(6):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [errors.StoreDown] * 4


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
async def test_a_store_that_goes_down_says_so_and_comes_back(servers: Embedded, name: str, mode: Mode) -> None:
    async with raw(servers, name) as database, behind(servers, name) as (store, proxy):
        async with aclosing(store.changes(None)) as changes:
            mark = (await anext(changes)).mark
            proxy.mode = mode
            if mode == "refuse":
                proxy.reset()
            with pytest.raises(errors.StoreDown):
                await anext(changes)
        await everything(store, mark)
        await database.things.insert_one({"_id": "meanwhile"})
        proxy.mode = "ok"
        proxy.reset()
        assert [told(change)[1] for change in await again(store, mark)] == ["meanwhile"]


async def again(store: MongoStore, mark: str) -> list[Change]:
    """As a feed does: until the store is back."""
    while True:
        async with aclosing(store.changes(mark)) as changes:
            with suppress(errors.StoreDown):
                return await until(changes, 1)


@pytest.mark.asyncio
async def test_a_closed_feed_leaves_nothing(servers: Embedded, name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with both(servers, name) as (store, _):
        before = asyncio.all_tasks()
        changes = store.changes(None)
        await anext(changes)
        waiting = asyncio.create_task(anext(changes), name="waiting")
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await changes.aclose()
        assert asyncio.all_tasks() == before
    assert not caplog.records


@pytest.mark.asyncio
async def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(errors.ConfigError):
        await MongoStore("http://example.org").open()


# without a server ---------------------------------------------------------------------------------------------------


def event(kind: str, time: int, inc: int, key: object, **more: Any) -> dict[str, Any]:
    place = {"clusterTime": bson.Timestamp(time, inc), "_id": {"_data": f"{time}.{inc}"}}
    return {"operationType": kind, **place, "ns": {"coll": "things"}, "documentKey": {"_id": key}, **more}


def test_the_index_goes_on_within_a_time_however_it_is_cut() -> None:
    events = [event("insert", 1, time, n, fullDocument={"_id": n}) for n, time in enumerate([1, 1, 1, 2, 2, 3])]
    whole, _ = read(events, Place("d", "{}"))
    assert isinstance(whole[0], Batch)
    for cut in range(len(events)):
        first, place = read(events[:cut], Place("d", "{}"))
        parsed = Place.parse(place.mark, "d")
        assert parsed is not None
        second, _ = read(events[cut:], parsed)
        parts = [change for batch in first + second if isinstance(batch, Batch) for change in batch.changes]
        assert parts == whole[0].changes


def test_an_update_of_what_is_deleted_by_now_is_left_out() -> None:
    found, _ = read([event("update", 1, 1, "a", fullDocument=None), event("delete", 1, 2, "a")], Place("d", "{}"))
    assert [change.op for change in found[0].changes] == ["delete"]  # type: ignore[union-attr]


def test_a_time_that_goes_back_takes_no_version_back() -> None:
    found, _ = read([event("delete", 5, 5, "a"), event("delete", 5, 4, "b")], Place("d", "{}"))
    versions = [change.version for change in found[0].changes]  # type: ignore[union-attr]
    assert versions == sorted(set(versions))


def test_versions_floors_and_fences_sort() -> None:
    time, later = bson.Timestamp(9, 10), bson.Timestamp(9, 11)
    version = Place("d", "{}", 9, 10, 2**20).version
    assert floor_of(time) < version < fence_of(time) < floor_of(later)
