"""The pool of the Postgres store: calls that are given up, and a server that is none to write to."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from realtime.embedded import Embedded
from realtime.embedded.directory import Directory
from realtime.embedded.postgres import Postgres
from realtime.errors import StoreDown
from realtime.stores import pgpool
from realtime.stores.postgres import PostgresStore
from realtime.verify.proxy import Proxy
from tests.cluster import drop, fresh
from tests.process import data_directory
from tests.test_outage import behind_proxy

pytestmark = pytest.mark.asyncio


async def test_a_read_that_is_given_up_at_any_moment_leaves_the_pool_whole_and_says_nothing(servers: Embedded) -> None:
    urls = await fresh(servers)
    store = PostgresStore(urls["postgres"])
    await store.open()
    try:
        await store.snapshot("entries")
        for moment in range(80):
            reading = asyncio.create_task(store.snapshot("entries"))
            await asyncio.wait([reading], timeout=moment * 0.0001)
            reading.cancel()
            await asyncio.sleep(0)
            reading.cancel()  # as when a client unsubscribes and leaves at once
            await asyncio.wait([reading])
        assert (await store.snapshot("entries")).items == {}
    finally:
        await store.close()
        await drop(servers, urls)


@pytest.mark.parametrize("half", ["transaction", "statement"])
async def test_what_was_given_up_behind_a_silent_connection_does_not_keep_its_locks(
    servers: Embedded, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a black hole leaves it: the server has heard of half a transaction, or of half a statement, and never hears of
    its end.
    """
    monkeypatch.setitem(pgpool._SETTINGS, "statement_timeout", "1s")
    monkeypatch.setitem(pgpool._SETTINGS, "idle_in_transaction_session_timeout", "1s")
    monkeypatch.setitem(pgpool._FROM_17, "transaction_timeout", "2s")
    urls = await fresh(servers)
    upstream, url = behind_proxy("postgres", urls["postgres"])
    admin = await asyncpg.connect(urls["postgres"])
    try:
        await admin.execute("CREATE TABLE locked (id int PRIMARY KEY)")
        async with Proxy(upstream) as proxy:
            pool = pgpool.Pool(url.format(port=proxy.port), "postgres")
            await pool.open()

            async def cut_off() -> None:
                async with pool.connection() as connection:
                    if half == "transaction":
                        await connection.execute("BEGIN; LOCK TABLE locked")
                    else:
                        await connection.prepare("SELECT FROM locked")  # what asyncpg does first with each statement
                    proxy.mode = "blackhole"
                    await connection.execute("SELECT 1", timeout=0.1)

            with pytest.raises(StoreDown):
                await cut_off()
            await admin.execute("DROP TABLE locked", timeout=10)
            await pool.close()
    finally:
        await admin.close()
        await drop(servers, urls)


async def test_a_server_that_does_not_know_a_newer_setting(servers: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pgpool._FROM_17, "realtime_of_a_later_version", "1s")
    pool = pgpool.Pool(servers.urls["postgres"], "postgres")
    await pool.open()
    async with pool.connection() as one, pool.connection() as other:
        for connection in (one, other):
            assert await connection.fetchval("SHOW transaction_timeout") == "0"
            assert await connection.fetchval("SHOW statement_timeout") == "7s"
    await pool.close()


async def test_a_standby_is_a_store_that_is_down_until_it_is_promoted() -> None:
    with data_directory() as path:
        directory = Directory(path)
        directory.claim()
        server = Postgres(directory)
        store = PostgresStore(server.url)
        try:
            await server.start()
            await server.process.stop()
            (server.home / "data/standby.signal").touch()
            await server.start()
            await store.open()
            for call in (store.collections(), store.snapshot("entries"), anext(store.changes(None))):
                with pytest.raises(StoreDown):
                    await call
            admin = await asyncpg.connect(server.url)
            await admin.execute("SELECT pg_promote()")
            await admin.close()
            assert (await store.snapshot("entries")).items == {}
        finally:
            await store.close()
            await server.process.close()
            directory.release()
