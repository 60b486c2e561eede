"""The pool of the Postgres store: calls that are given up."""

from __future__ import annotations

import asyncio

import pytest

from realtime.embedded import Embedded
from realtime.stores.postgres import PostgresStore
from tests.cluster import drop, fresh

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
