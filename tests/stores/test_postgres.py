"""PostgresStore on a real server: rows as JSON, keys, writes and their refusals. Its changes: test_pgchanges."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from msgspec import Raw

from realtime.embedded import Embedded
from realtime.errors import ConfigError, Conflict, Duplicate, NotFound, Refused, StoreDown, UnknownChannel
from realtime.protocol import ANYHOW, Condition, etag
from realtime.stores.postgres import PostgresStore
from realtime.verify.proxy import Proxy

from .pg import Database, database, following, put, until

DOCS = (Path(__file__).parents[2] / "docs/types-postgres.md").read_text(encoding="utf-8")
CREATE = re.findall(r"^CREATE .*;$", DOCS, re.MULTILINE)
TYPES = re.findall(r"^\| `(.+?)` \| `(.+)` \| `(.+)` \|$", DOCS, re.MULTILINE)

TABLE = "CREATE TABLE pairs (b int, a text, note text DEFAULT 'none', doc jsonb, PRIMARY KEY (a, b))"


@pytest_asyncio.fixture
async def db(servers: Embedded) -> AsyncGenerator[Database, None]:
    async with database(servers.urls["postgres"]) as fresh:
        yield fresh


def plain(value: Raw | None) -> dict[str, object]:
    assert value is not None
    decoded: dict[str, object] = msgspec.json.decode(value)
    return decoded


async def answers(store: PostgresStore) -> bool:
    try:
        return bool(await store.collections())
    except StoreDown:
        return False


# types ---------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_types_of_the_docs_read_stream_and_write_the_same(db: Database) -> None:
    assert len(TYPES) > 50
    for statement in CREATE:
        await db.sql.execute(statement)
    columns = ", ".join(f"c{nth} {kind}" for nth, (kind, _, _) in enumerate(TYPES))
    values = ", ".join(literal for _, literal, _ in TYPES)
    members = ",".join(f'"c{nth}":{json}' for nth, (_, _, json) in enumerate(TYPES))
    await db.sql.execute(f"CREATE TABLE types (id int PRIMARY KEY, {columns})")
    async with db.store("types") as store, following(store) as feed:
        await db.sql.execute(f"INSERT INTO types VALUES (1, {values})")
        item = (await store.snapshot("types")).items["1"]
        assert bytes(item).decode() == f'{{"id":1,{members}}}'
        assert (await feed.change()).value == item
        written = await store.put("types", "2", Raw(bytes(item).replace(b'"id":1', b'"id":2')), ANYHOW)
        assert bytes(written.value or b"") == bytes(item).replace(b'"id":1', b'"id":2')
        assert (await feed.change()).value == written.value


@pytest.mark.asyncio
async def test_stored_generated_columns_are_shown_and_virtual_ones_are_not(db: Database) -> None:
    await db.sql.execute(
        "CREATE TABLE sums (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED,"
        " thrice int GENERATED ALWAYS AS (id * 3) VIRTUAL)"
    )
    async with db.store("sums") as store, following(store) as feed:
        written = await put(store, "4", "{}", "sums")
        assert bytes(written.value or b"") == b'{"id":4,"twice":8}'
        assert (await feed.change()).value == written.value
        with pytest.raises(Refused, match="twice"):
            await put(store, "4", '{"twice":9}', "sums")


# collections and snapshots -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_sample_table_is_made_once_however_many_nodes_start(db: Database) -> None:
    async with db.store() as one, db.store() as two:
        found = await asyncio.gather(one.collections(), two.collections(), one.collections())
    assert [list(each) for each in found] == [["entries"]] * 3
    assert found[0]["entries"]["key"] == ["id"]
    assert found[0]["entries"]["columns"] == {
        "id": "bigint", "slug": "text", "title": "text", "markdown": "text",
        "published": "timestamp with time zone", "updated": "timestamp with time zone",
    }  # fmt: skip


@pytest.mark.asyncio
async def test_a_table_is_a_collection_if_it_has_a_primary_key(db: Database) -> None:
    await db.sql.execute("CREATE TABLE nokey (a int); CREATE SCHEMA blog; CREATE TABLE blog.posts (id int PRIMARY KEY)")
    async with db.store("nokey", "blog.posts", "later") as store:
        assert list(await store.collections()) == ["blog.posts"]
        assert (await put(store, "1", "{}", "blog.posts")).key == "1"
        with pytest.raises(UnknownChannel, match=r"nokey has no primary key"):
            await store.snapshot("nokey")
        for name in ("entries", "later", "pg_class", 'a"; DROP TABLE nokey; --'):
            with pytest.raises(UnknownChannel):
                await store.snapshot(name)
        await db.sql.execute("CREATE TABLE later (id int PRIMARY KEY); ALTER TABLE nokey ADD PRIMARY KEY (a)")
        assert (await store.snapshot("later")).items == {}
        assert (await store.snapshot("nokey")).items == {}


@pytest.mark.asyncio
async def test_names_are_quoted(db: Database) -> None:
    await db.sql.execute('CREATE TABLE "Sel-ect" ("id""; --" int PRIMARY KEY, "user" text, "ü %s $1" text)')
    async with db.store("Sel-ect") as store:
        written = await put(store, "1", '{"user":"u","ü %s $1":"x"}', "Sel-ect")
        assert plain(written.value) == {'id"; --': 1, "user": "u", "ü %s $1": "x"}
        patched = await store.patch("Sel-ect", "1", Raw(b'{"user":"v"}'), ANYHOW)
        assert plain(patched.value)["user"] == "v"


@pytest.mark.asyncio
async def test_pages_are_in_the_key_s_order(db: Database) -> None:
    await db.sql.execute(TABLE)
    async with db.store("pairs") as store:
        for key in ("b,10", "a,2", "a,10", "x%2Cy%25,1"):
            assert (await put(store, key, "{}", "pairs")).key == key
        first = await store.snapshot("pairs", limit=2)
        assert (list(first.items), first.next) == (["a,2", "a,10"], "a,10")
        second = await store.snapshot("pairs", after=first.next, limit=2)
        assert (list(second.items), second.next) == (["b,10", "x%2Cy%25,1"], None)
        with pytest.raises(Refused):
            await store.snapshot("pairs", after="a,b")


@pytest.mark.asyncio
async def test_keys_that_can_be_none_of_the_table_are_not_there(db: Database) -> None:
    async with db.store() as store:
        await put(store, "7", '{"slug":"a","title":"A"}')
        keys = ["7", "07", " 7", "abc", "7,7", "\0", "", "99999999999999999999999", "8"]
        assert list((await store.snapshot("entries", keys)).items) == ["7"]
        assert (await store.snapshot("entries", [])).items == {}
        for key in keys[1:]:
            with pytest.raises(NotFound):
                await store.delete("entries", key, ANYHOW)
            with pytest.raises(NotFound):
                await store.patch("entries", key, Raw(b"{}"), ANYHOW)


@pytest.mark.asyncio
async def test_an_altered_table_is_noticed(db: Database) -> None:
    async with db.store() as store:
        await put(store, "1", '{"slug":"a","title":"1"}')
        await db.sql.execute("ALTER TABLE entries ADD COLUMN extra text DEFAULT 'x'")
        assert plain((await store.snapshot("entries")).items["1"])["extra"] == "x"
        await db.sql.execute("ALTER TABLE entries DROP COLUMN extra, ALTER COLUMN title TYPE int USING title::int")
        assert plain((await put(store, "1", '{"slug":"a","title":2}')).value)["title"] == 2
        await db.sql.execute("ALTER TABLE entries ALTER COLUMN title TYPE text, ADD COLUMN more int")
        patched = await store.patch("entries", "1", Raw(b'{"more":3}'), ANYHOW)
        assert (plain(patched.value)["title"], plain(patched.value)["more"]) == ("2", 3)
        await db.sql.execute("ALTER TABLE entries RENAME TO elsewhere")
        with pytest.raises(UnknownChannel):
            await store.snapshot("entries")


# writes --------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_put_is_the_whole_row(db: Database) -> None:
    await db.sql.execute(TABLE)
    async with db.store("pairs") as store:
        await put(store, "k,1", '{"note":"mine","doc":{"a":1}}', "pairs")
        written = await put(store, "k,1", '{"b":1,"a":"k"}', "pairs")
        assert plain(written.value) == {"b": 1, "a": "k", "note": "none", "doc": None}


@pytest.mark.asyncio
async def test_patch_is_the_named_columns_and_merges_documents(db: Database) -> None:
    await db.sql.execute(TABLE)
    async with db.store("pairs") as store:
        await put(store, "k,1", '{"note":"mine","doc":{"a":{"x":1.10,"y":2},"b":[1]}}', "pairs")
        patch = Raw(b'{"doc":{"a":{"y":null,"z":12345678901234567890123},"c":true}}')
        written = await store.patch("pairs", "k,1", patch, ANYHOW)
        assert written.value is not None
        assert bytes(written.value).endswith(
            b'"note":"mine","doc":{"a":{"x":1.10,"z":12345678901234567890123},"b":[1],"c":true}}'
        )
        written = await store.patch("pairs", "k,1", Raw(b'{"note":null,"doc":null}'), ANYHOW)
        assert plain(written.value) == {"b": 1, "a": "k", "note": None, "doc": None}


@pytest.mark.asyncio
async def test_post_makes_a_key_and_passes_by_those_that_are_taken(db: Database) -> None:
    async with db.store() as store:
        await put(store, "1", '{"slug":"a","title":"A"}')
        await put(store, "2", '{"slug":"b","title":"B"}')
        assert (await put(store, None, '{"slug":"c","title":"C"}')).key == "3"
        with pytest.raises(Duplicate, match="slug"):
            await put(store, None, '{"slug":"a","title":"A"}')
        with pytest.raises(Refused, match='cannot insert a non-DEFAULT value into column "id"'):
            await put(store, None, '{"id":9,"slug":"d","title":"D"}')


@pytest.mark.asyncio
async def test_post_of_nothing_is_a_row_of_defaults(db: Database) -> None:
    await db.sql.execute("CREATE TABLE counters (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int DEFAULT 0)")
    async with db.store("counters") as store:
        written = await put(store, None, "{}", "counters")
        assert plain(written.value) == {"id": written.key, "n": 0}


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("1", "[1]", Refused, "JSON object"),
        ("1", '"text"', Refused, "JSON object"),
        ("1", '{"slug":"x","titel":"T"}', Refused, "no column titel"),
        ("1", '{"slug":"x"}', Refused, 'null value in column "title"'),
        ("1", '{"slug":"x","title":"T","published":"soon"}', Refused, 'timestamp with time zone: "soon"'),
        ("1", '{"slug":"x","title":"a\\u0000b"}', Refused, "Unicode escape"),
        ("1", '{"id":2,"slug":"x","title":"T"}', Refused, "id is 2 in the value but '1' in the key"),
        ("x", '{"slug":"x","title":"T"}', Refused, 'bigint: "x"'),
        ("01", '{"slug":"x","title":"T"}', Refused, "nothing was written"),
        ("1", '{"slug":"taken","title":"T"}', Duplicate, r"\(slug\)=\(taken\) already exists"),
    ],
)
@pytest.mark.asyncio
async def test_refusals_have_postgres_own_words(
    db: Database, key: str, value: str, error: type[Exception], words: str
) -> None:
    async with db.store() as store:
        await put(store, "9", '{"slug":"taken","title":"T"}')
        with pytest.raises(error, match=words):
            await put(store, key, value)
        assert list((await store.snapshot("entries")).items) == ["9"]


@pytest.mark.asyncio
async def test_conditions(db: Database) -> None:
    async with db.store() as store:
        body = Raw(b'{"slug":"a","title":"A"}')
        new, any_, other = Condition(exists=False), Condition(exists=True), Condition(etags=("other",))
        for condition in (any_, other):
            with pytest.raises(Conflict) as missing:
                await store.put("entries", "1", body, condition)
            assert missing.value.current is None
        first = await store.put("entries", "1", body, new)
        assert first.value is not None
        for condition in (new, other):
            for write in (store.put, store.patch):
                with pytest.raises(Conflict) as conflict:
                    await write("entries", "1", body, condition)
                assert conflict.value.current == first.value
        second = await store.patch("entries", "1", Raw(b'{"title":"B"}'), Condition(etags=("other", etag(first.value))))
        with pytest.raises(Conflict):
            await store.delete("entries", "1", Condition(etags=(etag(first.value),)))
        assert second.value is not None
        deleted = await store.delete("entries", "1", Condition(etags=(etag(second.value),)))
        assert deleted.value is None
        assert first.version < second.version < deleted.version


@pytest.mark.asyncio
async def test_of_two_conditional_writes_one_wins(db: Database) -> None:
    async with db.store() as store:
        first = await put(store, "1", '{"slug":"a","title":"0"}')
        assert first.value is not None
        for condition, key in ((Condition(etags=(etag(first.value),)), "1"), (Condition(exists=False), "2")):
            writes = [
                store.put("entries", key, Raw(b'{"slug":"%s","title":"%d"}' % (key.encode(), n)), condition)
                for n in range(8)
            ]
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 7 + ["Written"]


@pytest.mark.asyncio
async def test_a_row_that_a_trigger_drops_is_not_said_to_be_written(db: Database) -> None:
    async with db.store() as store:
        await store.collections()
        await db.sql.execute(
            "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER drop_it BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION drop_it()"
        )
        with pytest.raises(Refused, match="nothing was written"):
            await put(store, "1", '{"slug":"a","title":"A"}')


# breaks --------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_store_that_is_away_is_down_within_seconds_and_comes_back(db: Database, servers: Embedded) -> None:
    host = db.url.split("host=")[1].split("&")[0]
    async with Proxy(f"{host}/.s.PGSQL.5432") as proxy:
        proxy.mode = "refuse"
        url = f"postgresql://realtime@127.0.0.1:{proxy.port}/{db.slot}"
        async with db.store(url=url) as store:
            with pytest.raises(StoreDown):
                await store.collections()
            proxy.mode = "ok"
            await put(store, "1", '{"slug":"a","title":"A"}')
            proxy.mode = "blackhole"
            async with asyncio.timeout(5):
                with pytest.raises(StoreDown, match="did not answer"):
                    await store.collections()
            proxy.mode = "ok"
            proxy.reset()
            async with asyncio.timeout(5):
                assert list((await store.snapshot("entries")).items) == ["1"]
            await db.sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                                 " AND datname = current_database()")  # fmt: skip
            await until(lambda: answers(store))


@pytest.mark.asyncio
async def test_a_closed_store_is_down(db: Database) -> None:
    async with db.store() as store:
        pass
    with pytest.raises(StoreDown):
        await store.collections()


def test_bad_names_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError, match="not a table's name: 'a b'"):
        PostgresStore("postgresql://nowhere/", ["a b"])
    with pytest.raises(ConfigError, match="not a replication slot's name"):
        PostgresStore("postgresql://nowhere/", slot="Not-a-slot")


@pytest.mark.asyncio
async def test_who_may_sign_in_is_no_collection(db: Database) -> None:
    """However somebody asks for it, rights to a channel never show the accounts."""
    with pytest.raises(ConfigError, match=r"_realtime\.users"):
        PostgresStore(db.url, ["_realtime.users"])
    async with db.store() as store:
        with pytest.raises(Refused, match=r"_realtime\.users"):
            await store.track("_realtime.users")
        await store.collections()  # makes the tables that are ours
        await db.sql.execute("CREATE TABLE _realtime.users (id text PRIMARY KEY)")
        await db.sql.execute("INSERT INTO _realtime.tracked VALUES ('_realtime.users')")
        assert list(await store.collections()) == ["entries"]
        with pytest.raises(UnknownChannel):
            await store.snapshot("_realtime.users")
