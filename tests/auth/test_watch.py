"""What is revoked anywhere is known everywhere: by NOTIFY, and where that cannot be heard, by asking each time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from realtime.auth.accounts import Accounts
from realtime.auth.known import Known
from realtime.auth.watch import Watch
from realtime.embedded import Embedded
from realtime.errors import StoreDown, Unauthorized
from realtime.rights import Identity
from realtime.stores.pgpool import Pool
from realtime.verify.proxy import Proxy
from tests.auth.people import EMAIL, HERE, PASSWORD, Told, opened
from tests.stores.pg import Database, database, psql
from tests.test_outage import behind_proxy
from tests.wait import until

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def db(servers: Embedded) -> AsyncGenerator[Database, None]:
    async with database(servers.urls["postgres"]) as made:
        yield made


class Asked(list[str]):
    """Counts the times that PostgreSQL is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = Pool.connection

        def connection(pool: Pool) -> object:
            self.append(pool._name)
            return inner(pool)

        monkeypatch.setattr(Pool, "connection", connection)


STATEMENTS = {
    "users": "UPDATE _realtime.users SET roles = '{reader}'",
    "disabled": "UPDATE _realtime.users SET disabled = true",
    "sign_ins": "DELETE FROM _realtime.sign_ins",
    "tokens": "DELETE FROM _realtime.tokens",
    "scopes": "UPDATE _realtime.tokens SET scopes = '{write}'",
    "removed": "DELETE FROM _realtime.users",
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
async def test_a_row_that_psql_changes_is_told_within_a_second(db: Database, statement: str) -> None:
    told = Told()
    async with opened(db.url, told) as accounts:
        ann = await accounts.add(EMAIL, "", PASSWORD, [])
        secret, identity = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        _, token = await accounts.issue(EMAIL, "x", ["read"], None)
        before = [await accounts.signed_in(secret), await accounts.bearer(token)]
        await until(lambda: told.count(ann.id) == 3)
        told.clear()
        await psql(db.url, statement)
        await until(lambda: ann.id in told, seconds=1)
        now: list[Identity | None] = []
        for call in (accounts.signed_in(secret), accounts.bearer(token)):
            try:
                now.append(await call)
            except Unauthorized:
                now.append(None)
        assert now != before
        assert await accounts.still(identity) == now[0]


async def test_a_truncated_table_is_told(db: Database) -> None:
    told = Told()
    async with opened(db.url, told) as accounts:
        await accounts.add(EMAIL, "", PASSWORD, [])
        secret, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        await until(lambda: len(told) == 3)
        told.clear()
        await psql(db.url, "TRUNCATE _realtime.sign_ins")
        await until(lambda: told == [None], seconds=1)
        with pytest.raises(Unauthorized):
            await accounts.signed_in(secret)


async def test_that_a_token_was_used_is_told_to_nobody(db: Database) -> None:
    told = Told()
    async with opened(db.url, told) as accounts:
        ann = await accounts.add(EMAIL, "", None, [])
        await accounts.issue(EMAIL, "x", ["read"], None)
        await until(lambda: told.count(ann.id) == 2)
        await psql(db.url, "UPDATE _realtime.tokens SET used = now()", "UPDATE _realtime.users SET name = 'Ann'")
        await until(lambda: told.count(ann.id) == 3)


async def test_whose_row_it_was_and_whose_it_is_are_both_told(db: Database) -> None:
    told = Told()
    async with opened(db.url, told) as accounts:
        ann, bob = [await accounts.add(f"{name}@example.org", "", None, []) for name in ("ann", "bob")]
        await accounts.issue(ann.id, "x", ["read"], None)
        await until(lambda: len(told) == 4)
        told.clear()
        await psql(db.url, f"UPDATE _realtime.tokens SET user_id = '{bob.id}'")
        await until(lambda: {*told} == {ann.id, bob.id})


async def test_who_comes_again_costs_no_query(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Told()
    async with opened(db.url, heard) as accounts:
        ann = await accounts.add(EMAIL, "", PASSWORD, [])
        secret, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        _, token = await accounts.issue(EMAIL, "x", ["read"], None)
        await until(lambda: heard.count(ann.id) == 3)  # of what it did itself, too
        told = accounts._known.turn
        await accounts.signed_in(secret)
        await accounts.bearer(token)
        assert told == accounts._known.turn
        asked = Asked(monkeypatch)
        for _ in range(10):
            await accounts.signed_in(secret)
            await accounts.bearer(token)
        assert asked == []


async def test_what_one_node_ends_another_does_not_know(db: Database) -> None:
    one_told, two_told = Told(), Told()
    async with opened(db.url, one_told) as one, opened(db.url, two_told) as two:
        ann = await one.add(EMAIL, "", PASSWORD, [])
        secret, _ = await one.sign_in(EMAIL, PASSWORD, HERE)
        token, bearer = await two.issue(EMAIL, "x", ["read"], None)
        for node, told in ((one, one_told), (two, two_told)):
            await until(lambda told=told: told.count(ann.id) == 3)  # type: ignore[misc]
            await node.signed_in(secret)
            await node.bearer(bearer)
            told.clear()
        await one.sign_out(secret)
        with pytest.raises(Unauthorized):  # here at once
            await one.signed_in(secret)
        await until(lambda: two_told == [ann.id], seconds=1)
        with pytest.raises(Unauthorized):
            await two.signed_in(secret)
        one_told.clear()
        await two.revoke(EMAIL, token.id)
        with pytest.raises(Unauthorized):
            await two.bearer(bearer)
        await until(lambda: ann.id in one_told, seconds=1)
        with pytest.raises(Unauthorized):
            await one.bearer(bearer)


async def test_what_a_node_ends_it_does_not_know_before_it_is_told(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "_heard", lambda *_: None)  # as if it came very late
    async with opened(db.url) as accounts:
        await accounts.add(EMAIL, "", PASSWORD, [])
        first, second = [(await accounts.sign_in(EMAIL, PASSWORD, HERE))[0] for _ in range(2)]
        token, bearer = await accounts.issue(EMAIL, "x", ["read"], None)
        for call in (accounts.signed_in(first), accounts.signed_in(second), accounts.bearer(bearer)):
            await call
        await accounts.sign_out(first)
        with pytest.raises(Unauthorized):
            await accounts.signed_in(first)
        await accounts.revoke(EMAIL, token.id)
        with pytest.raises(Unauthorized):
            await accounts.bearer(bearer)
        await accounts.signed_in(second)
        assert (await accounts.change(EMAIL, roles=["reader"])).roles == (await accounts.signed_in(second)).roles
        await accounts.remove(EMAIL)
        with pytest.raises(Unauthorized):
            await accounts.signed_in(second)


WATCHERS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%watch of accounts'"


@pytest.mark.expects_logs
async def test_a_broken_connection_is_made_again_and_everybody_is_looked_at(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.auth.watch.HEARTBEAT", 60)  # that it is gone is noticed at once
    told = Told()
    async with opened(db.url, told) as accounts:
        await accounts.add(EMAIL, "", PASSWORD, [])
        secret, identity = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        await until(lambda: len(told) == 3)
        assert await accounts.signed_in(secret) == identity
        assert len(accounts._known) == 1
        told.clear()
        turn = accounts._known.turn
        assert await db.sql.fetchval(f"SELECT count(pg_terminate_backend(pid)) {WATCHERS}") == 1
        await until(lambda: None in told, seconds=2)
        assert accounts._known.turn >= turn + 2  # when it broke, and when it was there again
        assert len(accounts._known) == 0
        assert await accounts.signed_in(secret) == identity


@pytest.mark.expects_logs
async def test_who_is_cut_off_asks_each_time(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    async with opened(db.url, told) as accounts:
        await accounts.add(EMAIL, "", PASSWORD, [])
        secret, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        await until(lambda: len(told) == 3)
        await accounts.signed_in(secret)

        async def refused(*_: object) -> None:
            raise ConnectionRefusedError

        monkeypatch.setattr("realtime.auth.watch.connect", refused)
        await db.sql.execute(f"SELECT pg_terminate_backend(pid) {WATCHERS}")
        await until(lambda: not accounts._watch.live)
        asked = Asked(monkeypatch)
        await accounts.signed_in(secret)
        await accounts.signed_in(secret)
        assert len(asked) == 2
        await psql(db.url, "DELETE FROM _realtime.sign_ins")
        with pytest.raises(Unauthorized):
            await accounts.signed_in(secret)
    assert caplog.text.count("changes of accounts are not heard") == 1


@pytest.mark.expects_logs
async def test_a_connection_that_hangs_is_noticed_within_two_seconds(db: Database) -> None:
    """Behind a black hole no error is ever raised; nothing may be served from memory for long."""
    upstream, url = behind_proxy("postgres", db.url)
    told = Told()
    async with Proxy(upstream) as proxy, opened(url.format(port=proxy.port), told) as accounts:
        await accounts.add(EMAIL, "", PASSWORD, [])
        secret, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        await until(lambda: len(told) == 3)
        await accounts.signed_in(secret)
        told.clear()
        begin = time.monotonic()
        proxy.mode = "blackhole"
        await until(lambda: not accounts._watch.live, seconds=4)
        assert time.monotonic() - begin < 3  # a second of silence, one of patience, and a busy machine
        with pytest.raises(StoreDown):
            await accounts.signed_in(secret)
        await psql(db.url, "DELETE FROM _realtime.sign_ins")
        proxy.mode = "ok"
        await until(lambda: None in told)
        with pytest.raises(Unauthorized):
            await accounts.signed_in(secret)


@pytest.mark.expects_logs
async def test_postgres_may_be_down_at_the_start(db: Database) -> None:
    upstream, url = behind_proxy("postgres", db.url)
    told = Told()
    async with Proxy(upstream) as proxy:
        proxy.mode = "refuse"
        accounts = Accounts(url.format(port=proxy.port), told)
        await accounts.open()
        try:
            for call in (accounts.all(), accounts.signed_in("x" * 43), accounts.sign_in(EMAIL, PASSWORD, HERE)):
                with pytest.raises(StoreDown):
                    await call
            assert told == []
            proxy.mode = "ok"
            await until(lambda: None in told)
            assert await accounts.all() == []
        finally:
            await accounts.close()


@pytest.mark.expects_logs
async def test_a_change_that_could_not_be_taken_is_not_lost(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in what is told: the node looks at everybody instead."""

    class Failing(Told):
        def __call__(self, user: str | None) -> None:
            super().__call__(user)
            if user is not None:
                raise ZeroDivisionError

    told = Failing()
    async with opened(db.url, told) as accounts:
        ann = await accounts.add(EMAIL, "", None, [])
        await until(lambda: told == [None, ann.id, None])
    assert "ZeroDivisionError" in caplog.text


async def test_an_answer_that_was_overtaken_by_a_change_is_not_kept() -> None:
    """Read before the change, answered after it was told."""
    known, ann = Known(), Identity("ann")
    turn = known.turn
    known.drop("ann")
    known.keep(b"1", ann, turn)
    assert known.get(b"1") is None
    known.keep(b"1", ann, known.turn)
    assert known.get(b"1") is ann
    turn = known.turn
    known.forget(b"2")
    known.keep(b"2", ann, turn)
    assert known.get(b"2") is None


async def test_what_is_remembered_is_bounded_and_the_longest_unused_goes() -> None:
    known = Known(entries=3)
    for number in range(3):
        known.keep(b"%d" % number, Identity(f"user {number}"), known.turn)
    known.get(b"0")
    known.keep(b"3", Identity("user 0"), known.turn)
    assert [known.get(b"%d" % number) is not None for number in range(4)] == [True, False, True, True]
    assert known._of_user == {"user 0": {b"0", b"3"}, "user 2": {b"2"}}
    known.drop("user 0")
    assert (len(known), known._of_user) == (1, {"user 2": {b"2"}})
