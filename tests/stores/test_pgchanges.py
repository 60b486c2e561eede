"""What PostgresStore says has changed, on a real server: psql's writes, the order, restarts, breaks, the fence."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import msgspec
import pytest
import pytest_asyncio
from msgspec import Raw

from realtime.embedded import Embedded
from realtime.errors import Refused, StoreDown
from realtime.protocol import ANYHOW, Change, beyond
from realtime.stores import pgchanges, pgstream
from realtime.stores.base import Batch, Lost
from realtime.stores.pgversions import lsn
from realtime.stores.postgres import PostgresStore
from realtime.verify.proxy import Proxy

from .pg import Database, database, following, psql, put, replayed, told, until

ENTRY = "INSERT INTO entries (slug, title) VALUES ('{0}', '{0}')"
LARGE = "INSERT INTO entries (slug, title, markdown) VALUES ('{0}', '{0}', repeat('0123456789abcdef', 1000))"


@pytest_asyncio.fixture
async def db(servers: Embedded) -> AsyncGenerator[Database, None]:
    async with database(servers.urls["postgres"]) as fresh:
        yield fresh


def member(change: Change, name: str) -> object:
    assert isinstance(change.value, Raw)
    return json(change.value)[name]


def json(value: Raw) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.json.decode(value)
    return decoded


def place(mark: str) -> int:
    return lsn(mark.split(":")[1])


async def kept(db: Database) -> int:
    """What the slot may forget."""
    query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1"
    return lsn(await db.sql.fetchval(query, db.slot))


# what psql does ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_psql_writes_are_changes_with_the_value_that_a_snapshot_has(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        await psql(db.url, "COPY entries (slug, title) FROM STDIN", copy="a\tA\nb\tB\n\\.\n")
        await psql(db.url, "UPDATE entries SET title = 'A2' WHERE id = 1", "DELETE FROM entries WHERE id = 2")
        changes = await feed.changes(4)
        assert told(changes) == [("put", "1"), ("put", "2"), ("put", "1"), ("delete", "2")]
        assert changes[2].value == (await store.snapshot("entries")).items["1"]
        assert [change.version for change in changes] == sorted({change.version for change in changes})
        now = await db.sql.fetchval("SELECT extract(epoch FROM now())::float8")
        assert all(now - 60 < change.time <= now for change in changes)


@pytest.mark.asyncio
async def test_a_changed_key_is_a_delete_and_a_put(db: Database) -> None:
    await db.sql.execute("CREATE TABLE pairs (b int, a text, note text, PRIMARY KEY (a, b))")
    for identity in ("DEFAULT", "FULL"):
        await db.sql.execute(f"TRUNCATE pairs; ALTER TABLE pairs REPLICA IDENTITY {identity}")
        async with db.store("pairs") as store, following(store) as feed:
            await psql(
                db.url, "INSERT INTO pairs VALUES (1, 'x,y', 'n')", "UPDATE pairs SET b = 2", "DELETE FROM pairs"
            )
            changes = await feed.changes(4)
            assert told(changes) == [
                ("put", "x%2Cy,1"),
                ("delete", "x%2Cy,1"),
                ("put", "x%2Cy,2"),
                ("delete", "x%2Cy,2"),
            ]
            assert member(changes[2], "note") == "n"
        await db.sql.execute("SELECT pg_drop_replication_slot($1)", db.slot)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.asyncio
async def test_an_update_beside_a_large_value_has_that_value(db: Database, identity: str) -> None:
    async with db.store() as store:
        await store.collections()
        await db.sql.execute(f"ALTER TABLE entries ALTER markdown SET STORAGE EXTERNAL, REPLICA IDENTITY {identity}")
        await db.sql.execute(LARGE.format("a"))
        async with following(store) as feed:
            await psql(db.url, "UPDATE entries SET title = 'new'")
            change = await feed.change()
            assert member(change, "title") == "new"
            assert change.value == (await store.snapshot("entries")).items["1"]


@pytest.mark.asyncio
async def test_a_changed_key_takes_a_large_value_with_it(db: Database) -> None:
    await db.sql.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    await db.sql.execute("ALTER TABLE docs ALTER body SET STORAGE EXTERNAL")
    async with db.store("docs") as store, following(store) as feed:
        await psql(db.url, "INSERT INTO docs VALUES (1, repeat('0123456789', 1000))", "UPDATE docs SET id = 2")
        changes = await feed.changes(3)
        assert told(changes) == [("put", "1"), ("delete", "1"), ("put", "2")]
        assert changes[2].value == (await store.snapshot("docs")).items["2"]


@pytest.mark.asyncio
async def test_a_large_value_that_was_read_again_is_not_followed_by_older_ones(db: Database) -> None:
    async with db.store() as store:
        await store.collections()
        await db.sql.execute("ALTER TABLE entries ALTER markdown SET STORAGE EXTERNAL")
        await db.sql.execute(LARGE.format("a") + ";" + LARGE.format("b"))
        async with following(store) as feed:
            for command in (
                "UPDATE entries SET title = 'one'",
                "UPDATE entries SET title = 'two', markdown = 'short' WHERE id = 1",
                "UPDATE entries SET title = 'three' WHERE id = 1",
                "DELETE FROM entries WHERE id = 2",
            ):
                await psql(db.url, command)  # all before the feed looks
            changes = await feed.changes(5)
        titles = [member(change, "title") for change in changes if change.key == "1"]
        assert (titles, changes[-1].op) == (["three"] * 3, "delete")
        assert [change.op for change in changes if change.key == "2"] == ["delete", "delete"]


@pytest.mark.asyncio
async def test_truncate_is_lost_in_its_place(db: Database) -> None:
    await db.sql.execute("CREATE TABLE other (id int PRIMARY KEY)")
    async with db.store("entries", "other") as store, following(store) as feed:
        await psql(
            db.url, ENTRY.format("a"), f"BEGIN; {ENTRY.format('b')}; TRUNCATE entries; {ENTRY.format('c')}; COMMIT"
        )
        assert told(await feed.changes(2)) == [("put", "1"), ("put", "2")]
        assert (await feed.lost()).collections == ("entries",)
        assert told([await feed.change()]) == [("put", "3")]


@pytest.mark.asyncio
async def test_altered_columns_arrive_with_the_next_row(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        await psql(db.url, ENTRY.format("a"))
        await feed.change()
        await psql(db.url, "CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN moods AS mood[]")
        await psql(db.url, "ALTER TABLE entries ADD extra moods, DROP markdown", "UPDATE entries SET extra = '{sad}'")
        found = [await feed.batch(), await feed.batch()]
        [change] = next(each.changes for each in found if isinstance(each, Batch))
        assert member(change, "extra") == ["sad"]
        assert change.value == (await store.snapshot("entries")).items["1"]


@pytest.mark.asyncio
async def test_rows_that_nobody_wrote_have_other_values_when_columns_are_altered(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgchanges, "LOOK", 0.05)
    async with db.store() as store:
        async with following(store) as feed:
            await psql(db.url, ENTRY.format("a"))
            await feed.change()
            await psql(db.url, "ALTER TABLE entries ADD extra int DEFAULT 7")
            assert (await feed.lost()).collections == ("entries",)
            assert json((await store.snapshot("entries")).items["1"])["extra"] == 7
            await psql(db.url, "CREATE INDEX ON entries (extra)", "ALTER TABLE entries ALTER extra SET DEFAULT 8")
            await psql(db.url, ENTRY.format("b"))
            assert (await feed.change()).key == "2"  # without a word about the index
            await psql(db.url, "ALTER TABLE entries ADD more int; ALTER TABLE entries DROP more")
            assert (await feed.lost()).collections == ("entries",)  # some may have read it in between
        await psql(db.url, "ALTER TABLE entries DROP extra")
        async with following(store, feed.mark) as again:
            assert (await again.lost()).collections == ("entries",)


@pytest.mark.asyncio
async def test_an_altered_key_is_lost(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        await psql(db.url, ENTRY.format("a"))
        assert (await feed.change()).key == "1"
        await psql(
            db.url, "ALTER TABLE entries DROP CONSTRAINT entries_pkey, ADD PRIMARY KEY (slug)", ENTRY.format("b")
        )
        found = [await feed.batch(), await feed.batch()]
        assert [each.collections for each in found if isinstance(each, Lost)] == [("entries",)]
        assert [told(list(each.changes)) for each in found if isinstance(each, Batch)] == [[("put", "b")]]


@pytest.mark.asyncio
async def test_what_is_rolled_back_never_happened(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        rolled_back = f"BEGIN; {ENTRY.format('no')}; ROLLBACK"
        savepoint = f"BEGIN; SAVEPOINT s; {ENTRY.format('no')}; ROLLBACK TO s; {ENTRY.format('b')}; COMMIT"
        await psql(db.url, rolled_back, savepoint)
        assert member(await feed.change(), "slug") == "b"


@pytest.mark.asyncio
async def test_partitions_are_one_collection(db: Database) -> None:
    await db.sql.execute(
        "CREATE TABLE logs (id int, day date, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);"
        "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        "CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')"
    )
    async with db.store("logs") as store, following(store) as feed:
        written = await put(store, "2026-01-05,1", "{}", "logs")
        await psql(db.url, "UPDATE logs SET day = '2026-02-05'")
        assert told(await feed.changes(3)) == [("put", written.key), ("delete", written.key), ("put", "2026-02-05,1")]


# order and visibility ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_order_is_that_of_commits_and_an_open_transaction_stalls_nothing(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        first, second = await db.connect(), await db.connect()
        one, two = first.transaction(), second.transaction()
        await one.start()
        await first.execute(ENTRY.format("first"))
        await two.start()
        await second.execute(ENTRY.format("second"))
        early = await store.snapshot("entries")
        await two.commit()
        change = await feed.change()
        assert change.key == "2"
        late = await store.snapshot("entries")
        await one.commit()
        last = await feed.change()
        assert (last.key, last.version > change.version) == ("1", True)
        assert [store.contains(early.fence, each.version) for each in (change, last)] == [False, False]
        assert [store.contains(late.fence, each.version) for each in (change, last)] == [True, False]
        assert beyond(late.fence, last.version)
        await first.close()
        await second.close()


@pytest.mark.asyncio
async def test_a_change_is_told_only_when_a_snapshot_would_have_it(db: Database) -> None:
    """With a standby that never answers, a commit is in the log and not visible."""
    async with db.store() as store, following(store) as feed:
        waiting = await db.connect()
        await db.sql.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            await db.sql.execute("SELECT pg_reload_conf()")
            await db.until("SELECT current_setting('synchronous_standby_names') = 'nobody'")
            writing = asyncio.create_task(waiting.execute(ENTRY.format("a")))
            await db.until("SELECT true FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            telling = asyncio.create_task(feed.change())
            await db.until(
                "SELECT sent_lsn = pg_current_wal_flush_lsn() FROM pg_stat_replication"
                " WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)",
                db.slot,
            )
            for _ in range(20):
                early = await store.snapshot("entries")
                assert early.items == {}
                assert not telling.done()
        finally:
            await db.sql.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await db.sql.execute("SELECT pg_reload_conf()")
        change = await telling
        snapshot = await store.snapshot("entries")
        assert store.contains(snapshot.fence, change.version)
        assert not store.contains(early.fence, change.version)
        assert not beyond(early.fence, change.version)  # so it was the transaction's id that told
        await writing
        await waiting.close()


@pytest.mark.asyncio
async def test_a_write_s_version_finds_its_change(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        await put(store, "1", '{"slug":"a","title":"0"}')

        async def patch(n: int) -> tuple[str, int]:
            written = await store.patch("entries", "1", Raw(b'{"title":"%d"}' % n), ANYHOW)
            return written.version, n

        writes = await asyncio.gather(*(patch(n) for n in range(1, 30)))
        changes = await feed.changes(30)
        for version, n in writes:
            assert member(next(change for change in changes if change.version >= version), "title") == str(n)
        deleted = await store.delete("entries", "1", ANYHOW)
        assert changes[-1].version < deleted.version <= (await feed.change()).version


@pytest.mark.asyncio
async def test_snapshot_and_changes_make_the_table_whatever_others_write_meanwhile(db: Database) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    await db.sql.execute("CREATE TABLE numbers (id int PRIMARY KEY, n int)")

    async def write(writer: int) -> None:
        sql = await db.connect()
        for n in range(40):
            async with sql.transaction():
                for key in sorted(dice.sample(range(6), dice.randrange(1, 4))):  # in one order: no deadlocks
                    if dice.random() < 0.3:
                        await sql.execute("DELETE FROM numbers WHERE id = $1", key)
                    else:
                        await sql.execute("INSERT INTO numbers VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = $2",
                                          key, writer * 1000 + n)  # fmt: skip
                    await asyncio.sleep(dice.random() * 0.002)
        await sql.close()

    async with db.store("numbers") as store, following(store) as feed:
        writers = [asyncio.create_task(write(writer)) for writer in range(5)]
        snapshots = [await store.snapshot("numbers")]
        while not all(writer.done() for writer in writers):
            snapshots.append(await store.snapshot("numbers"))
            await asyncio.sleep(dice.random() * 0.01)
        await asyncio.gather(*writers)
        last = await put(store, "99", '{"n":1}', "numbers")
        changes: list[Change] = []
        while not changes or changes[-1].version < last.version:
            changes.append(await feed.change())
        expected = {key: bytes(value) for key, value in (await store.snapshot("numbers")).items.items()}
        assert len(snapshots) > 5
        for snapshot in snapshots:
            assert replayed(store, snapshot, changes) == expected


# restarts ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_changes_go_on_from_the_mark(db: Database) -> None:
    async with db.store() as store:
        async with following(store) as feed:
            for name in "ab":
                await psql(db.url, ENTRY.format(name))
                last = await feed.change()
        await psql(db.url, ENTRY.format("c"))
        async with following(store, feed.mark) as again:
            await psql(db.url, ENTRY.format("d"))
            while (change := await again.change()).version <= last.version:
                pass  # the mark may be that of the change before: the log ignores what it has
            assert told([change, await again.change()]) == [("put", "3"), ("put", "4")]


@pytest.mark.asyncio
async def test_what_was_not_kept_is_told_again(db: Database) -> None:
    async with db.store() as store, following(store) as feed:
        mark = feed.mark
        await psql(db.url, ENTRY.format("a"))
        first = await feed.change()
    assert await kept(db) <= place(mark)
    async with db.store() as store, following(store, mark) as again:
        assert await again.change() == first


@pytest.mark.asyncio
async def test_what_is_kept_may_be_forgotten_also_while_other_tables_are_written(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgchanges, "LOOK", 0.05)
    monkeypatch.setattr(pgstream, "REPORT", 0.05)
    await db.sql.execute("CREATE TABLE other (id int PRIMARY KEY)")
    async with db.store() as store, aclosing(store.changes(None)) as changes:
        await anext(changes)
        await db.sql.execute("INSERT INTO other SELECT generate_series(1, 1000)")
        written = lsn(await db.sql.fetchval("SELECT pg_current_wal_flush_lsn()::text"))
        while place((found := await anext(changes)).mark) < written:
            assert found == Batch((), found.mark)
        keeping = asyncio.ensure_future(anext(changes))

        async def forgotten() -> bool:
            return await kept(db) >= written

        await until(forgotten)
        await put(store, "1", '{"slug":"a","title":"A"}')
        await keeping


@pytest.mark.asyncio
async def test_a_killed_walsender_is_a_store_that_is_down_and_nothing_is_lost(db: Database) -> None:
    async with db.store() as store:
        async with following(store) as feed:
            await psql(db.url, ENTRY.format("a"))
            await feed.change()
            await db.sql.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", db.slot
            )
            with pytest.raises(StoreDown, match="terminating connection"):
                await feed.batch()
        await psql(db.url, ENTRY.format("b"))
        async with following(store, feed.mark) as again:
            assert (await again.change()).key == "2"


@pytest.mark.asyncio
async def test_a_silent_server_is_a_store_that_is_down(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgstream, "SILENCE", 1.0)
    monkeypatch.setattr(pgstream, "REPORT", 0.1)
    host = db.url.split("host=")[1].split("&")[0]
    async with Proxy(f"{host}/.s.PGSQL.5432") as proxy:
        url = f"postgresql://realtime@127.0.0.1:{proxy.port}/{db.slot}"
        async with db.store(url=url) as store, following(store) as feed:
            proxy.mode = "deaf"
            with pytest.raises(StoreDown):
                await feed.batch()
            proxy.reset()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("SELECT pg_drop_replication_slot('{0}')", "slot was missing"),
        ("DROP PUBLICATION {0}", "publication was missing"),
        ("SELECT pg_replication_slot_advance('{0}', pg_current_wal_lsn())", "beyond the mark"),
    ],
)
@pytest.mark.asyncio
async def test_what_cannot_be_known_is_lost(db: Database, command: str, reason: str) -> None:
    async with db.store() as store:
        async with following(store) as feed:
            pass
        await psql(db.url, ENTRY.format("a"), command.format(db.slot))
        async with aclosing(store.changes(feed.mark)) as changes:
            lost = await anext(changes)
            assert isinstance(lost, Lost)
            assert (lost.collections, reason in lost.reason) == (None, True)
            await psql(db.url, ENTRY.format("b"))
            batch = await anext(changes)
            assert isinstance(batch, Batch)
            assert batch.changes[-1].key == "2"


@pytest.mark.parametrize("mark", ["7-1:0/1:", "", "garbage"])
@pytest.mark.asyncio
async def test_a_mark_of_another_cluster_or_none_is_lost(db: Database, mark: str) -> None:
    async with db.store() as store, aclosing(store.changes(mark)) as changes:
        lost = await anext(changes)
        assert isinstance(lost, Lost)
        assert lost.collections is None


@pytest.mark.asyncio
async def test_a_lost_that_was_not_kept_is_told_again(db: Database) -> None:
    async with db.store() as store:
        async with following(store) as feed:
            pass
        await psql(db.url, f"SELECT pg_drop_replication_slot('{db.slot}')")
        for _ in range(2):
            async with aclosing(store.changes(feed.mark)) as changes:
                assert isinstance(await anext(changes), Lost)


@pytest.mark.asyncio
async def test_a_second_node_waits_and_takes_over(db: Database) -> None:
    async with db.store() as one, db.store() as two:
        async with following(one) as feed:
            await psql(db.url, ENTRY.format("a"))
            await feed.change()
            changes = two.changes(feed.mark)
            waiting = asyncio.ensure_future(anext(changes))
            await psql(db.url, ENTRY.format("b"))
            assert (await feed.change()).key == "2"
            assert not waiting.done()
        batch = await waiting
        assert isinstance(batch, Batch)
        assert told(list(batch.changes)) == [("put", "2")]
        await changes.aclose()


@pytest.mark.asyncio
@pytest.mark.expects_logs
async def test_a_slot_waits_for_open_transactions_and_says_so(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pgstream, "CREATE", 0.2)
    async with db.store() as store:
        await store.collections()
        writing = db.sql.transaction()
        await writing.start()
        await db.sql.execute("CREATE TEMP TABLE mine (n int)")
        async with aclosing(store.changes(None)) as changes:
            starting = asyncio.ensure_future(anext(changes))

            async def said() -> bool:
                return "waits for" in caplog.text

            await until(said)
            assert not starting.done()
            await writing.commit()
            assert isinstance(await starting, Lost)


# size ----------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_large_transaction_comes_in_bounded_batches_with_the_mark_before_it(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgchanges, "BATCH", 20)
    await db.sql.execute("CREATE TABLE many (id int PRIMARY KEY)")
    count = 20_000
    async with db.store("many") as store:
        async with following(store) as feed:
            await psql(db.url, f"INSERT INTO many SELECT generate_series(1, {count})")
            versions: list[str] = []
            while len(versions) < count:
                batch = await feed.batch()
                assert isinstance(batch, Batch)
                assert len(batch.changes) <= pgchanges.BATCH
                versions += [change.version for change in batch.changes]
                commit = int(versions[0].partition(".")[0], 16)
                assert (place(feed.mark) > commit) is (len(versions) == count)
            assert versions == sorted(set(versions))
        async with following(store, feed.mark) as again:
            await psql(db.url, "DELETE FROM many WHERE id = 7")
            assert told([await again.change()]) == [("delete", "7")]


@pytest.mark.asyncio
async def test_who_does_not_ask_holds_postgres_back_and_keeps_the_connection(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgstream, "_SETTINGS", pgstream._SETTINGS.replace(b"'4s'", b"'1s'"))
    monkeypatch.setattr(pgstream, "REPORT", 0.1)
    await db.sql.execute("CREATE TABLE many (id int PRIMARY KEY, filler text)")
    async with db.store("many") as store, following(store) as feed:
        await psql(db.url, "INSERT INTO many SELECT g, repeat('x', 1000) FROM generate_series(1, 30000) g")
        await feed.change()
        walsender = "pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)"
        await db.until(f"SELECT wait_event = 'WalSenderWriteData' FROM pg_stat_activity WHERE {walsender}", db.slot)
        since = await db.sql.fetchval("SELECT clock_timestamp()")
        await db.until("SELECT clock_timestamp() > $1::timestamptz + interval '2 seconds'", since)  # twice its patience
        assert await db.sql.fetchval(f"SELECT wait_event FROM pg_stat_activity WHERE {walsender}", db.slot)
        assert (await feed.changes(29_999))[-1].key == "30000"


# tables that come later ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_tracked_table_becomes_live_on_every_node(db: Database) -> None:
    await db.sql.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
    async with db.store() as one, db.store() as two, following(one) as feed:
        await two.track("public.late")
        assert (await feed.lost()).collections == ("late",)
        assert list((await one.snapshot("late")).items) == ["1"]
        await psql(db.url, "INSERT INTO late VALUES (2)")
        assert ((await feed.change()).collection, set(await two.collections())) == ("late", {"entries", "late"})
    async with db.store() as three, following(three, feed.mark) as again:
        await psql(db.url, "INSERT INTO late VALUES (3)")
        assert (await again.change()).key == "3"


@pytest.mark.asyncio
async def test_a_table_that_joined_without_its_lost_being_kept_is_lost_again(db: Database) -> None:
    await db.sql.execute("CREATE TABLE late (id int PRIMARY KEY)")
    async with db.store() as store, following(store) as feed:
        mark = feed.mark
    for _ in range(2):
        async with db.store("entries", "late") as store, following(store, mark) as again:
            assert (await again.lost()).collections == ("late",)


@pytest.mark.asyncio
@pytest.mark.expects_logs
async def test_a_configured_table_becomes_live_when_it_is_made(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgchanges, "LOOK", 0.05)
    async with db.store("entries", "late") as store, following(store) as feed:
        await psql(db.url, "CREATE TABLE late (id int PRIMARY KEY)")
        assert (await feed.lost()).collections == ("late",)
        await psql(db.url, "INSERT INTO late VALUES (1)")
        assert (await feed.change()).key == "1"
        await psql(db.url, "DROP TABLE late", "CREATE TABLE late (id int PRIMARY KEY)")
        assert (await feed.lost()).collections == ("late",)


@pytest.mark.asyncio
@pytest.mark.expects_logs
async def test_a_table_joins_when_nobody_writes_to_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgchanges, "LOOK", 0.05)
    await db.sql.execute("CREATE TABLE late (id int PRIMARY KEY)")
    async with db.store() as store, following(store) as feed:
        writer = await db.connect()
        writing = writer.transaction()
        await writing.start()
        await writer.execute("INSERT INTO late VALUES (1)")
        await store.track("late")
        joining = asyncio.create_task(feed.lost())
        await db.until("SELECT true FROM pg_locks WHERE relation = 'late'::regclass AND NOT granted")
        await writing.commit()
        assert (await joining).collections == ("late",)
        assert list((await store.snapshot("late")).items) == ["1"]
        await writer.close()


@pytest.mark.asyncio
@pytest.mark.expects_logs
async def test_a_table_without_a_key_is_left_alone(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    await db.sql.execute("CREATE TABLE nokey (a int); INSERT INTO nokey VALUES (1)")
    async with db.store("entries", "nokey") as store, following(store) as feed:
        await db.sql.execute("UPDATE nokey SET a = 2")
        await psql(db.url, ENTRY.format("a"))
        assert (await feed.change()).collection == "entries"
        assert "public.nokey has no primary key" in caplog.text
        with pytest.raises(Refused, match="no primary key"):
            await store.track("nokey")
        with pytest.raises(Refused, match="does not exist"):
            await store.track("missing")


# ends ----------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_when_it_is_closed_nothing_is_left(db: Database) -> None:
    async with db.store() as store:
        for _ in range(3):
            async with following(store) as feed:
                await psql(db.url, "INSERT INTO entries (slug, title) VALUES (gen_random_uuid(), 'x')")
                await feed.change()
            await db.sql.execute("SELECT pg_drop_replication_slot($1)", db.slot)
            async with aclosing(store.changes(None)) as changes:
                with suppress(TimeoutError):  # somewhere at its start
                    await asyncio.wait_for(anext(changes), 0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # psycopg leaves a connection that was not made yet to the collector
    await db.until("SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()")


@pytest.mark.asyncio
async def test_a_slot_of_another_database_is_not_touched(db: Database, servers: Embedded) -> None:
    async with database(servers.urls["postgres"]) as other, db.store() as store, following(store):
        foreign = PostgresStore(other.url, slot=db.slot)
        await foreign.open()
        with pytest.raises(StoreDown, match="belongs to another"):
            await anext(foreign.changes(None))
        await foreign.close()
