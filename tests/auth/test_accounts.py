"""Accounts, sign-ins, links and tokens on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from realtime.auth import accounts as module
from realtime.auth import tokens
from realtime.auth.accounts import Accounts
from realtime.auth.tries import Tries
from realtime.embedded import Embedded
from realtime.errors import Duplicate, NotFound, RealtimeError, Refused, StoreDown, TooMany, Unauthorized
from realtime.rights import NOBODY, Identity
from tests.auth.people import EMAIL, HERE, PASSWORD, opened
from tests.stores.pg import Database, database
from tests.stores.pg import until as until_true

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def db(servers: Embedded) -> AsyncGenerator[Database, None]:
    async with database(servers.urls["postgres"]) as made:
        yield made


@pytest_asyncio.fixture
async def accounts(db: Database) -> AsyncGenerator[Accounts, None]:
    async with opened(db.url) as made:
        yield made


async def test_an_account_is_made_found_changed_and_removed(accounts: Accounts) -> None:
    ann = await accounts.add("  Ann@Example.ORG ", " Ann ", None, ["reader", "reader", "admin"])
    assert (ann.email, ann.name, ann.roles, ann.disabled) == (EMAIL, "Ann", ("reader", "admin"), False)
    assert re.fullmatch("u[a-z0-9]{11}", ann.id)
    assert abs(ann.created - time.time()) < 60
    assert await accounts.get(ann.id) == await accounts.get("ANN@example.org") == ann
    bob = await accounts.add("bob@example.org", "", None, [])
    assert await accounts.all() == [ann, bob]
    changed = await accounts.change(EMAIL, name="Anna", roles=[])
    assert (changed.id, changed.name, changed.roles) == (ann.id, "Anna", ())
    assert (await accounts.change(ann.id)) == changed
    await accounts.remove(EMAIL)
    assert await accounts.all() == [bob]
    for call in (accounts.get(EMAIL), accounts.change(EMAIL), accounts.remove(EMAIL), accounts.link(EMAIL)):
        with pytest.raises(NotFound):
            await call


async def test_one_account_an_e_mail(accounts: Accounts) -> None:
    await accounts.add(EMAIL, "", None, [])
    with pytest.raises(Duplicate, match=r"ann@example\.org has an account already"):
        await accounts.add("ANN@EXAMPLE.org", "", None, [])


@pytest.mark.parametrize(
    ("email", "name", "password", "roles"),
    [
        ("nobody", "", PASSWORD, []),
        ("a@b@c", "", PASSWORD, []),
        ("a b@c", "", PASSWORD, []),
        ("a\0@c", "", PASSWORD, []),
        ("\ud800@c", "", PASSWORD, []),
        (f"{'a' * 253}@c", "", PASSWORD, []),
        (EMAIL, "x" * 101, PASSWORD, []),
        (EMAIL, "\x1b[2J", PASSWORD, []),
        (EMAIL, "", "1234567", []),
        (EMAIL, "", "x" * 257, []),
        (EMAIL, "", PASSWORD, ["Admin"]),
        (EMAIL, "", PASSWORD, ["*"]),
        (EMAIL, "", PASSWORD, ["a" * 33]),
    ],
)
async def test_what_no_account_may_have(
    accounts: Accounts, email: str, name: str, password: str, roles: list[str]
) -> None:
    with pytest.raises(Refused) as caught:
        await accounts.add(email, name, password, roles)
    assert password not in str(caught.value)
    assert await accounts.all() == []


async def test_signing_in_and_out(accounts: Accounts, db: Database) -> None:
    ann = await accounts.add(EMAIL, "Ann", PASSWORD, ["reader"])
    secret, identity = await accounts.sign_in("Ann@example.org ", PASSWORD, HERE)
    assert identity == await accounts.signed_in(secret) == await accounts.still(identity)
    assert (identity.user, identity.name, identity.roles) == (ann.id, "Ann", ("reader",))
    assert (identity.proof, identity.scopes) == ("sign-in", None)
    assert identity.expires is not None
    assert abs(identity.expires - time.time() - 12 * 3600) < 60
    await accounts.sign_out(secret)
    assert await accounts.still(identity) is None
    with pytest.raises(Unauthorized):
        await accounts.signed_in(secret)
    await accounts.sign_out(secret)  # again, as from another tab


async def test_who_is_refused_is_not_told_why(accounts: Accounts) -> None:
    await accounts.add(EMAIL, "", PASSWORD, [])
    await accounts.add("off@example.org", "", PASSWORD, [])
    await accounts.change("off@example.org", disabled=True)
    await accounts.add("new@example.org", "", None, [])
    said = set()
    for email, password in [
        (EMAIL, "wrong"), (EMAIL, "x" * 300), (EMAIL, ""), (EMAIL, "\ud800"),
        ("nobody@example.org", PASSWORD), ("no address", PASSWORD), ("x" * 300, PASSWORD),
        ("off@example.org", PASSWORD), ("new@example.org", PASSWORD),
    ]:  # fmt: skip
        with pytest.raises(Unauthorized) as caught:
            await accounts.sign_in(email, password, HERE)
        said.add(str(caught.value.body()))
    assert len(said) == 1


async def test_a_new_password_ends_what_was_signed_in(accounts: Accounts) -> None:
    await accounts.add(EMAIL, "", PASSWORD, [])
    secret, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
    link = await accounts.link(EMAIL)
    _, token = await accounts.issue(EMAIL, "a program's", ["read"], None)
    await accounts.change(EMAIL, password="battery staple")
    for call in (accounts.signed_in(secret), accounts.redeem(link), accounts.sign_in(EMAIL, PASSWORD, HERE)):
        with pytest.raises(Unauthorized):
            await call
    await accounts.bearer(token)
    await accounts.sign_in(EMAIL, "battery staple", HERE)


async def test_who_is_disabled_has_nothing_left(accounts: Accounts, db: Database) -> None:
    await accounts.add(EMAIL, "", PASSWORD, [])
    secret, identity = await accounts.sign_in(EMAIL, PASSWORD, HERE)
    _, token = await accounts.issue(EMAIL, "a program's", ["read"], None)
    link = await accounts.link(EMAIL)
    await accounts.change(EMAIL, disabled=True)
    for refused in (accounts.signed_in(secret), accounts.bearer(token), accounts.redeem(link)):
        with pytest.raises(Unauthorized):
            await refused
    assert await accounts.still(identity) is None
    for call in (accounts.link(EMAIL), accounts.issue(EMAIL, "x", ["read"], None)):
        with pytest.raises(Refused, match="disabled"):
            await call
    await accounts.change(EMAIL, disabled=False)
    for refused in (accounts.signed_in(secret), accounts.bearer(token)):
        with pytest.raises(Unauthorized):
            await refused
    await accounts.sign_in(EMAIL, PASSWORD, HERE)


async def test_disabled_by_sql_alone_is_disabled(accounts: Accounts, db: Database) -> None:
    await accounts.add(EMAIL, "", PASSWORD, [])
    secret, identity = await accounts.sign_in(EMAIL, PASSWORD, HERE)
    _, token = await accounts.issue(EMAIL, "a program's", ["read"], None)
    await db.sql.execute("UPDATE _realtime.users SET disabled = true")
    assert await accounts.still(identity) is None
    async with opened(db.url) as other:
        for call in (other.signed_in(secret), other.bearer(token)):
            with pytest.raises(Unauthorized):
                await call


async def test_a_sign_in_while_the_password_changes(accounts: Accounts, db: Database) -> None:
    """Begun with the old one, it is not there afterwards, whoever comes first."""
    await accounts.add(EMAIL, "", PASSWORD, [])
    async with db.sql.transaction():
        await db.sql.execute("UPDATE _realtime.users SET password = 'another'")  # holds the row
        signing_in = asyncio.create_task(accounts.sign_in(EMAIL, PASSWORD, HERE))
        async with opened(db.url) as other:  # its connection, as this one's view of others stays the same meanwhile
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1"
            async with other._connection() as connection:
                await until_true(lambda: connection.fetchval(waiting, "transactionid"))
    with pytest.raises(Unauthorized):
        await signing_in
    assert await db.sql.fetchval("SELECT count(*) FROM _realtime.sign_ins") == 0


async def test_a_link_signs_in_once(accounts: Accounts, db: Database) -> None:
    ann = await accounts.add(EMAIL, "", None, ["admin"])
    void, link = await accounts.link(EMAIL), await accounts.link(ann.id)
    with pytest.raises(Unauthorized):
        await accounts.redeem(void)
    secret, identity = await accounts.redeem(link)
    assert identity == await accounts.signed_in(secret)
    assert (identity.user, identity.proof, identity.name) == (ann.id, "sign-in", EMAIL)
    with pytest.raises(Unauthorized):
        await accounts.redeem(link)
    old = await accounts.link(EMAIL)
    left = await db.sql.fetchval("SELECT extract(epoch FROM expires - now())::float8 FROM _realtime.links")
    assert 890 < left <= 900
    await db.sql.execute("UPDATE _realtime.links SET expires = now()")
    with pytest.raises(Unauthorized):
        await accounts.redeem(old)


async def test_a_token_says_who_and_for_what(accounts: Accounts) -> None:
    ann = await accounts.add(EMAIL, "Ann", None, ["reader"])
    until_then = time.time() + 3600
    token, secret = await accounts.issue(EMAIL, "nightly", ["read:postgres/*", "write:redis/notes"], until_then)
    assert re.fullmatch("rt_[A-Za-z0-9_-]{43}", secret)
    assert secret.startswith(token.start)
    assert len(token.start) < 10
    assert (token.name, token.scopes, token.used) == ("nightly", ("read:postgres/*", "write:redis/notes"), None)
    assert await accounts.tokens(ann.id) == [token]
    identity = await accounts.bearer(secret)
    assert identity == Identity(ann.id, ("reader",), "token", token.id, "Ann", token.scopes, token.expires)
    assert await accounts.still(identity) == identity
    assert token.expires == pytest.approx(until_then, abs=0.01)


async def test_a_revoked_token_is_none(accounts: Accounts) -> None:
    await accounts.add(EMAIL, "", None, [])
    await accounts.add("bob@example.org", "", None, [])
    token, secret = await accounts.issue(EMAIL, "x", ["read"], None)
    identity = await accounts.bearer(secret)
    with pytest.raises(NotFound):
        await accounts.revoke("bob@example.org", token.id)
    await accounts.revoke(EMAIL, token.id)
    assert await accounts.still(identity) is None
    with pytest.raises(Unauthorized):
        await accounts.bearer(secret)
    with pytest.raises(NotFound):
        await accounts.revoke(EMAIL, token.id)


@pytest.mark.parametrize(
    ("name", "scopes", "expires"),
    [
        ("", ["read"], None),
        ("x", [], None),
        ("x", ["all"], None),
        ("x", ["read:a b"], None),
        ("x", ["read", "write:"], None),
        ("x", [f"read:a{number}" for number in range(33)], None),
        ("x", ["read"], 1.0),
        ("x", ["read"], float("nan")),
        ("x", ["read"], 1e300),
    ],
)
async def test_what_no_token_may_have(accounts: Accounts, name: str, scopes: list[str], expires: float | None) -> None:
    await accounts.add(EMAIL, "", None, [])
    with pytest.raises(Refused):
        await accounts.issue(EMAIL, name, scopes, expires)


async def test_an_account_has_so_many_tokens(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 3)
    await accounts.add(EMAIL, "", None, [])
    issued = await asyncio.gather(
        *(accounts.issue(EMAIL, "x", ["read"], None) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, Refused) for each in issued) == 5
    assert len(await accounts.tokens(EMAIL)) == 3


@pytest.mark.parametrize("table", ["sign_ins", "tokens"])
async def test_what_has_expired_is_over(
    accounts: Accounts, db: Database, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the database, and in what this node remembers."""
    await accounts.add(EMAIL, "", PASSWORD, [])
    kept, call = (await accounts.sign_in(EMAIL, PASSWORD, HERE))[0], accounts.signed_in
    if table == "tokens":
        kept, call = (await accounts.issue(EMAIL, "x", ["read"], time.time() + 3600))[1], accounts.bearer
    identity = await call(kept)
    assert identity.expires is not None
    monkeypatch.setattr(time, "time", lambda: identity.expires)
    with pytest.raises(Unauthorized):
        await call(kept)
    monkeypatch.undo()
    await db.sql.execute(f"UPDATE _realtime.{table} SET expires = now()")
    assert await accounts.still(identity) is None
    await accounts.sign_in(EMAIL, PASSWORD, HERE)  # sweeps
    assert await db.sql.fetchval("SELECT count(*) FROM _realtime.sign_ins WHERE expires <= now()") == 0


async def test_that_a_token_was_used_is_written_once_a_minute(
    db: Database, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_USED", 0.01)
    async with opened(db.url) as node:
        await node.add(EMAIL, "", None, [])
        _, secret = await node.issue(EMAIL, "x", ["read"], None)
        await node.bearer(secret)
        await db.until("SELECT used IS NOT NULL FROM _realtime.tokens")
        [token] = await node.tokens(EMAIL)
        assert token.used is not None
        assert abs(token.used - time.time()) < 60
        monkeypatch.undo()
    version = "SELECT xmin::text FROM _realtime.tokens"
    written = await db.sql.fetchval(version)
    await accounts.bearer(secret)
    await accounts._write_used()
    assert await db.sql.fetchval(version) == written
    await db.sql.execute("UPDATE _realtime.tokens SET used = used - interval '61 s'")
    await accounts.bearer(secret)
    await accounts._write_used()
    assert await db.sql.fetchval("SELECT used > now() - interval '30 s' FROM _realtime.tokens")


async def test_nonsense_is_nobody(accounts: Accounts) -> None:
    for secret in ("", "x", "x" * 43, "\ud800" * 43, "rt_", "rt_" + "x" * 43, "rt_" + "\0" * 43, "x" * 100_000):
        for call in (accounts.signed_in, accounts.bearer):
            with pytest.raises(Unauthorized):
                await call(secret)
        with pytest.raises(Unauthorized):
            await accounts.redeem(secret)
        await accounts.sign_out(secret)


async def test_one_secret_does_not_pass_for_another(accounts: Accounts) -> None:
    """A sign-in's is no token, nor the other way round, nor is a link's."""
    await accounts.add(EMAIL, "", PASSWORD, [])
    sign_in, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
    _, token = await accounts.issue(EMAIL, "x", ["read"], None)
    link = await accounts.link(EMAIL)
    await accounts.signed_in(sign_in)
    await accounts.bearer(token)
    for call in (
        accounts.bearer(sign_in), accounts.bearer("rt_" + sign_in), accounts.signed_in(token),
        accounts.signed_in(token.removeprefix("rt_")), accounts.signed_in(link), accounts.redeem(sign_in),
    ):  # fmt: skip
        with pytest.raises(Unauthorized):
            await call


async def test_who_has_another_proof_is_left_alone(accounts: Accounts) -> None:
    jwt = Identity("someone", (), "jwt")
    assert await accounts.still(jwt) is jwt
    assert await accounts.still(NOBODY) is NOBODY


async def test_the_cookies_secret_is_made_once(db: Database) -> None:
    async with opened(db.url) as one, opened(db.url) as two:
        found = await asyncio.gather(*(node.cookie_secrets() for node in (one, two, one, two)))
    assert len({*found}) == 1
    assert [len(secret) for secret in found[0]] == [43]


async def test_nodes_that_start_at_once_make_the_tables_once(db: Database) -> None:
    nodes = [Accounts(db.url) for _ in range(5)]
    for node in nodes:
        await node.open()
    assert await asyncio.gather(*(node.all() for node in nodes)) == [[]] * 5
    for node in nodes:
        await node.close()


async def test_a_role_that_may_make_no_tables_is_told_what_it_needs(db: Database) -> None:
    role = f"limited_{db.slot}"
    await db.sql.execute(f"CREATE ROLE {role}")
    accounts = Accounts(f"{db.url}{'&' if '?' in db.url else '?'}role={role}")
    await accounts.open()
    try:
        with pytest.raises(StoreDown, match="permission denied") as caught:
            await accounts.all()
        assert "GRANT CREATE ON DATABASE" in (caught.value.hint or "")
        await db.sql.execute(f"GRANT CREATE ON DATABASE {db.slot} TO {role}")
        assert await accounts.all() == []
    finally:
        await accounts.close()
        await db.sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_an_e_mail_is_the_same_however_it_was_typed(accounts: Accounts) -> None:
    """In any script; and what Python takes for small, PostgreSQL need not."""
    small = ["ÄNN@example.org", "ΟΔΟΣ@example.org", "İ@example.org", "ǅ@example.org", "ẞ@example.org"]
    for email in small:
        account = await accounts.add(email, "", None, [])
        assert await accounts.get(email) == await accounts.get(account.email) == account
    with pytest.raises(Duplicate):
        await accounts.add("änn@example.org", "", None, [])


async def test_no_secret_is_kept_as_it_is(accounts: Accounts, db: Database) -> None:
    await accounts.add(EMAIL, "", PASSWORD, [])
    sign_in, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
    link = await accounts.link(EMAIL)
    _, token = await accounts.issue(EMAIL, "x", ["read"], None)
    rows = ""
    for table in ("users", "sign_ins", "links", "tokens"):
        rows += str(await db.sql.fetchval(f"SELECT json_agg(t) FROM _realtime.{table} t"))
        rows += str([dict(row) for row in await db.sql.fetch(f"SELECT * FROM _realtime.{table}")])
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in rows
    for secret in (PASSWORD, sign_in, link, token):
        assert secret not in rows
        assert secret.encode().hex() not in rows


async def test_no_secret_is_said_in_the_log(accounts: Accounts, db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Not by us, nor by what we use, at any level; nor in what an error says."""
    caplog.set_level(logging.DEBUG)
    await accounts.add(EMAIL, "", PASSWORD, [])
    sign_in, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
    link = await accounts.link(EMAIL)
    _, token = await accounts.issue(EMAIL, "x", ["read"], None)
    await accounts.signed_in(sign_in)
    await accounts.bearer(token)
    said = []
    for call in (
        accounts.sign_in(EMAIL, PASSWORD + "?", HERE), accounts.signed_in(link), accounts.bearer("rt_" + link),
        accounts.redeem(sign_in), accounts.add(EMAIL, "", PASSWORD, []), accounts.add(EMAIL, "", "1234567", []),
    ):  # fmt: skip
        with pytest.raises(RealtimeError) as caught:
            await call
        said.append(repr(caught.value) + str(caught.value.body()))
    await accounts.redeem(link)
    for secret in (PASSWORD, sign_in, link, token, "1234567"):
        assert secret not in caplog.text + "".join(said)


async def test_five_tries_a_minute_for_an_e_mail_from_an_address(accounts: Accounts) -> None:
    await accounts.add(EMAIL, "", PASSWORD, [])
    await accounts.sign_in(EMAIL, PASSWORD, HERE)  # a right one counts for nothing
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await accounts.sign_in(EMAIL, "wrong", HERE)
    for email, password in ((EMAIL, PASSWORD), ("ANN@example.org", "wrong")):
        with pytest.raises(TooMany):
            await accounts.sign_in(email, password, HERE)
    await accounts.sign_in(EMAIL, PASSWORD, "192.0.2.1")  # nobody locks another one out
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await accounts.sign_in("nobody@example.org", "wrong", HERE)
    with pytest.raises(TooMany):  # as for one who has an account
        await accounts.sign_in("nobody@example.org", "wrong", HERE)


async def test_tries_are_forgotten_after_a_minute_and_bounded() -> None:
    tries = Tries(pairs=3)
    for second in range(5):
        tries.take(EMAIL, HERE, second)
    with pytest.raises(TooMany):
        tries.take(EMAIL, HERE, 59)
    tries.take(EMAIL, HERE, 60)  # the first one is a minute old
    with pytest.raises(TooMany):
        tries.take(EMAIL, HERE, 60.5)
    for address in "abcdef":
        tries.take(EMAIL, address, 61)
    assert len(tries) == 3
