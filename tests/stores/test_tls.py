"""TLS to the stores comes with their addresses, and a certificate that does not hold is refused on every connection.

Each of Postgres' two drivers by itself: what one checks, the other might not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from realtime.brokers.redis import RedisBroker
from realtime.embedded import Embedded
from realtime.errors import BrokerDown, StoreDown
from realtime.stores.mongo import MongoStore
from realtime.stores.pgpool import Pool
from realtime.stores.pgstream import connected
from realtime.stores.postgres import PostgresStore
from realtime.stores.redis import RedisStore
from tests.brokers.nodes import Node
from tests.tls import Certificates, certificates, postgres_relay, relay

from .pg import database, following, put

pytestmark = pytest.mark.asyncio
PASSWORD = "swordfish-2718"


@pytest.fixture(scope="module")
def made() -> Iterator[Certificates]:
    with certificates() as found:
        yield found


@asynccontextmanager
async def postgres(servers: Embedded, made: Certificates | None) -> AsyncIterator[Callable[..., str]]:
    """What makes addresses of a database of its own, behind TLS or (without `made`) a server that has none."""
    async with database(servers.urls["postgres"]) as found:
        parts = urlsplit(found.url)
        place = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        async with postgres_relay(made, lambda: asyncio.open_unix_connection(place)) as port:

            def address(host: str = "localhost", **options: object) -> str:
                return f"postgresql://realtime:{PASSWORD}@{host}:{port}{parts.path}?{urlencode(options)}"

            yield address


async def test_postgres_by_a_certificate_that_holds(servers: Embedded, made: Certificates) -> None:
    async with postgres(servers, made) as address:
        good = address(sslmode="verify-full", sslrootcert=made.ca)
        store = PostgresStore(good, slot=urlsplit(good).path[1:])
        await store.open()
        async with following(store) as follower:
            await put(store, None, '{"slug": "a", "title": "A"}')
            assert (await follower.change()).op == "put"
        await store.close()


WRONG = ["another CA", "another name", "no TLS"]


@asynccontextmanager
async def wrong(servers: Embedded, made: Certificates, which: str) -> AsyncIterator[str]:
    async with postgres(servers, None if which == "no TLS" else made) as address:
        ca = made.other if which == "another CA" else made.ca
        yield address("127.0.0.1" if which == "another name" else "localhost", sslmode="verify-full", sslrootcert=ca)


@pytest.mark.parametrize("which", WRONG)
async def test_postgres_pool_refuses(servers: Embedded, made: Certificates, which: str) -> None:
    async with wrong(servers, made, which) as address:
        pool = Pool(address, "postgres")
        await pool.open()
        try:
            with pytest.raises(StoreDown) as caught:
                async with pool.connection():
                    pass
        finally:
            await pool.close()
    assert PASSWORD not in str(caught.value)


@pytest.mark.expects_logs  # asyncio's own, where a client leaves in the middle of a handshake
@pytest.mark.parametrize("which", WRONG)
async def test_postgres_replication_refuses(servers: Embedded, made: Certificates, which: str) -> None:
    async with wrong(servers, made, which) as address:
        with pytest.raises(StoreDown) as caught:
            async with connected(address, "postgres"):
                pass
    assert PASSWORD not in str(caught.value)


@pytest.mark.expects_logs
async def test_redis(servers: Embedded, made: Certificates) -> None:
    path = servers.urls["redis"].removeprefix("unix://")
    async with relay(made, lambda: asyncio.open_unix_connection(path)) as port:
        good = f"rediss://localhost:{port}?ssl_ca_certs={made.ca}"
        assert await redis_answers(good)
        assert not await redis_answers(good.replace(str(made.ca), str(made.other)))
        assert not await redis_answers(good.replace("localhost", "127.0.0.1"))
        assert not await redis_answers(f"rediss://localhost:{port}")


async def redis_answers(address: str) -> bool:
    """Store and broker, its pub/sub too, of one mind."""
    store, node = RedisStore(address), Node(RedisBroker(address, "tls"))
    await store.open()
    await node.open()
    try:
        said = {
            await answers(store.collections(), StoreDown),
            await answers(node.broker.positions(["a/b"]), BrokerDown),
        }
        said.add(await answers(node.broker.subscribe("a/b"), BrokerDown))
    finally:
        await node.broker.close()
        await store.close()
    assert len(said) == 1
    return said.pop()


async def test_mongo(servers: Embedded, made: Certificates) -> None:
    parts = urlsplit(servers.urls["mongo"])
    async with relay(made, lambda: asyncio.open_connection("127.0.0.1", parts.port)) as port:
        base = (
            f"mongodb://realtime:{parts.password}@HOST:{port}/realtime?authSource=admin&directConnection=true&tls=true"
        )
        assert await mongo_answers(f"{base}&tlsCAFile={made.ca}".replace("HOST", "localhost"))
        assert not await mongo_answers(f"{base}&tlsCAFile={made.other}".replace("HOST", "localhost"))
        assert not await mongo_answers(f"{base}&tlsCAFile={made.ca}".replace("HOST", "127.0.0.1"))
        assert not await mongo_answers(base.replace("HOST", "localhost"))


async def mongo_answers(address: str) -> bool:
    store = MongoStore(address)
    await store.open()
    try:
        return await answers(store.collections(), StoreDown)
    finally:
        await store.close()


async def answers(call: Awaitable[object], down: type[Exception]) -> bool:
    try:
        await call
    except down:
        return False
    return True
