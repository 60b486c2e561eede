"""The pool of the Postgres store: calls that are given up, and a server that is none to write to."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from realtime.embedded import Embedded
from realtime.embedded.directory import Directory
from realtime.embedded.postgres import Postgres
from realtime.errors import StoreDown
from realtime.stores.postgres import PostgresStore
from tests.cluster import drop, fresh
from tests.process import data_directory

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
