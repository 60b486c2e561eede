"""What docs/security.md gives the service in its stores is enough for it, and is not more.

The lines are those of the document, with a database, a password and names of the test's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import Signals
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from realtime import embedded
from realtime.app import Service
from realtime.auth.accounts import Accounts
from realtime.auth.tickets import Tickets
from realtime.embedded import Embedded
from tests.cluster import address, databases, node, ready
from tests.process import data_directory
from tests.wait import until

pytestmark = pytest.mark.asyncio
DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def block(language: str, word: str) -> list[str]:
    """The lines of the document's one block that has this word."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    [found] = [each for each in blocks if word in each]
    return [line for line in found.splitlines() if line]


class Given:
    """Addresses of the service's users; `superuser` are those of the owner."""

    def __init__(self, superuser: dict[str, str], urls: dict[str, str], role: str) -> None:
        self.superuser, self.urls, self.role = superuser, urls, role


@asynccontextmanager
async def given(servers: Embedded) -> AsyncIterator[Given]:
    async with databases(servers) as owners:
        name = urlsplit(owners["postgres"]).path[1:]
        role = f"live_{name}"
        sql = await asyncpg.connect(owners["postgres"])
        await sql.execute((Path(__file__).parents[2] / "realtime/stores/schema.sql").read_text())
        await sql.execute("CREATE TABLE salaries (id int PRIMARY KEY)")
        for line in block("sql", "CREATE ROLE"):
            line = line.replace("realtime_app", f"realtime_{name}").replace("DATABASE app", f"DATABASE {name}")
            await sql.execute(re.sub(r"\blive\b", role, line))
        redis = Redis.from_url(owners["redis"])
        for line in block("redis", "resetkeys"):
            who, *rules = line.replace("user live", role).replace("user app", f"app_{name}").split()
            await asked(redis, "ACL", "SETUSER", who, *rules)
        await asked(redis, "ACL", "LOG", "RESET")
        mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(owners["mongo"])
        [create] = block("js", "createUser")
        roles = [{"role": "readWrite", "db": name}]
        assert 'roles: [{ role: "readWrite", db: "app" }]' in create
        await mongo[name].command("createUser", "live", pwd="change-me", roles=roles)
        await mongo["other"]["things"].insert_one({"n": 1})
        urls = {
            "postgres": owners["postgres"].replace("//realtime@", f"//{role}:change-me@"),
            "redis": owners["redis"].replace("unix://", f"unix://{role}@") + "?password=change-me",
            "mongo": f"mongodb://live:change-me@127.0.0.1:{urlsplit(owners['mongo']).port}/{name}?authSource={name}",
        }
        try:
            yield Given(owners, urls, role)
        finally:
            await mongo.drop_database("other")
            await mongo[name].command("dropUser", "live")
            await mongo.close()
            await asked(redis, "ACL", "DELUSER", role, f"app_{name}")
            await redis.aclose()
            await sql.execute(f"DROP OWNED BY {role} CASCADE")
            await sql.execute(f"DROP ROLE {role}")
            await sql.close()


async def asked(redis: Redis, *words: str) -> Any:
    return await redis.execute_command(*words)  # type: ignore[no-untyped-call]


@pytest.mark.expects_logs
async def test_the_service_needs_no_more(servers: Embedded, caplog: pytest.LogCaptureFixture) -> None:
    """It writes, follows, hears what others write, resumes and reads history, in every store; nothing is denied it."""
    async with given(servers) as found, node(found.urls) as service:
        await until(lambda: ready([service]))
        for path, value in (
            ("postgres/entries", {"slug": "a", "title": "A"}),
            ("redis/rooms", 20),
            ("mongo/things", {"n": 1}),
        ):
            cursor = (await said(service, f"/v1/{path}?wait=0"))["cursor"]
            key = (await said(service, f"/v1/{path}?wait=1", "POST", value))["key"]
            events = (await said(service, f"/v1/{path}?wait=10&cursor={cursor}"))["events"]
            assert [event["key"] for event in events] == [key]
            assert await said(service, f"/v1/{path}/{key}")
            await said(service, f"/v1/{path}/{key}", "DELETE")
        sql = await asyncpg.connect(found.superuser["postgres"])
        cursor = (await said(service, "/v1/postgres/entries?wait=0"))["cursor"]
        await sql.execute("INSERT INTO entries (slug, title) VALUES ('b', 'B')")
        await sql.close()
        assert (await said(service, f"/v1/postgres/entries?wait=10&cursor={cursor}"))["events"]
        async with Redis.from_url(found.superuser["redis"], decode_responses=True) as redis:
            cursor = (await said(service, "/v1/redis/rooms?wait=0"))["cursor"]
            await redis.set("rooms:foreign", "1")
            assert (await said(service, f"/v1/redis/rooms?wait=10&cursor={cursor}"))["events"]
            denied = {(each["object"], each["username"]) for each in await redis.acl_log()}
    assert {what for what, who in denied if who == found.role} == set()
    loud = [record.getMessage() for record in caplog.records if record.name.startswith("realtime")]
    assert [line for line in loud if "permission" in line or "not live" in line or "is off" in line] == []


async def said(service: Service, path: str, method: str = "GET", value: object = None) -> Any:
    body = None if value is None else json.dumps(value)
    request = HTTPRequest(address(service) + path, method, body=body, request_timeout=30)
    answer = await AsyncHTTPClient().fetch(request)
    return json.loads(answer.body) if answer.body else None


async def test_accounts_and_tickets_need_no_more(servers: Embedded) -> None:
    """Nor does the word of a change, which goes through PostgreSQL."""
    changed: list[str | None] = []
    async with given(servers) as found, AsyncExitStack() as stack:
        accounts, tickets = Accounts(found.urls["postgres"], changed.append), Tickets(found.urls["redis"])
        await accounts.open()
        stack.push_async_callback(accounts.close)
        stack.push_async_callback(tickets.close)
        account = await accounts.add("ada@example.com", "Ada", "correct horse battery", ("reader",))
        secret, identity = await accounts.sign_in("ada@example.com", "correct horse battery", "127.0.0.1")
        assert (await accounts.signed_in(secret)).user == account.id
        assert (await tickets.redeem(await tickets.issue(identity))).user == account.id
        await until(lambda: account.id in changed)
        assert await accounts.cookie_secrets()


async def test_postgres_lets_the_service_do_nothing_else(servers: Embedded) -> None:
    async with given(servers) as found, AsyncExitStack() as stack:
        sql = await asyncpg.connect(found.urls["postgres"])
        stack.push_async_callback(sql.close)
        powers = "rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls"
        assert not await sql.fetchval(f"SELECT {powers} FROM pg_roles WHERE rolname = current_user")
        for query in (
            "SELECT * FROM salaries",
            "DROP TABLE entries",
            "ALTER TABLE entries ADD COLUMN x int",
            "CREATE TABLE public.mine (id int)",
            "ALTER PUBLICATION realtime_x ADD TABLE salaries",
            "CREATE ROLE evil",
            "SELECT pg_read_file('postgresql.conf')",
            "COPY entries TO PROGRAM 'cat'",
            "ALTER SYSTEM SET ssl = off",
        ):
            query = query.replace("realtime_x", f"realtime_{urlsplit(found.urls['postgres']).path[1:]}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(query)


async def test_the_whole_server_cannot_be_copied() -> None:
    """The lines for pg_hba.conf, for a unix socket: the bundled server was built without TLS."""
    with data_directory() as data:
        started = await embedded.start(data, ("postgres",))
        try:
            sql = await asyncpg.connect(started.urls["postgres"])
            await sql.execute("CREATE DATABASE app")
            await sql.execute("CREATE ROLE live LOGIN REPLICATION PASSWORD 'change-me'")
            await sql.close()
            lines = [re.sub(r"^host(ssl)? (.*) all (\S+)$", r"local \2 \3", line) for line in block("pg_hba", "reject")]
            hba = data / "hba"
            hba.write_text("\n".join(lines) + "\n" + (data / "pg_hba.conf").read_text())
            hba.chmod(0o644)
            await started.kill("postgres", Signals.SIGINT)
            await started.revive("postgres", ["-c", f"hba_file={hba}"])
            url = started.urls["postgres"].replace("//realtime@/realtime", "//live:change-me@/app")
            (await psycopg.AsyncConnection.connect(url, replication="database")).pgconn.finish()
            with pytest.raises(psycopg.OperationalError, match="rejects replication connection"):
                await psycopg.AsyncConnection.connect(url, replication="true")
        finally:
            await started.close()


async def test_redis_lets_the_service_do_nothing_else(servers: Embedded) -> None:
    async with given(servers) as found, Redis.from_url(found.urls["redis"]) as redis:
        refused = "FLUSHALL|CONFIG SET save 1|ACL LIST|KEYS *|SHUTDOWN|MONITOR|SAVE|REPLICAOF no one|CLIENT LIST"
        for words in [*refused.split("|"), "SUBSCRIBE other", "PUBLISH other x"]:
            with pytest.raises(NoPermissionError):
                await asked(redis, *words.split())


async def test_other_programs_cannot_make_events(servers: Embedded) -> None:
    async with given(servers) as found:
        name = found.role.removeprefix("live_")
        theirs = found.superuser["redis"].replace("unix://", f"unix://app_{name}@") + "?password=change-me-too"
        async with Redis.from_url(theirs) as redis:
            await redis.set("rooms:attic", 1)
            for words in (
                "PUBLISH realtime:log:redis/rooms x",
                "PUBLISH realtime:node:x x",
                "XADD realtime:log:redis/rooms * a b",
                "SET realtime:lease:redis me",
                "GET realtime:meta:redis/rooms",
            ):
                with pytest.raises(NoPermissionError):
                    await asked(redis, *words.split())


async def test_mongo_lets_the_service_do_nothing_else(servers: Embedded) -> None:
    async with given(servers) as found:
        mongo: AsyncMongoClient[dict[str, Any]]
        async with AsyncMongoClient(found.urls["mongo"]) as mongo:
            own: Any = mongo.get_default_database()
            await own["things"].insert_one({"_id": "a"})
            tries: list[Callable[[], Awaitable[object]]] = [
                lambda: mongo["other"]["things"].find_one(),
                lambda: mongo["other"].command("insert", "things", documents=[{"n": 2}]),
                lambda: mongo.drop_database("other"),
                lambda: own.command("createUser", "evil", pwd="x", roles=["root"]),
                lambda: mongo.admin.command("listDatabases"),
            ]
            for attempt in tries:
                with pytest.raises(OperationFailure, match="not authorized"):
                    await attempt()
