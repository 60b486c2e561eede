"""Nodes of one cluster in this process, on the real servers, each test with databases of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis.asyncio

from realtime.app import Service
from realtime.config import Auth, Config
from realtime.embedded import Embedded
from tests.wait import until


async def fresh(servers: Embedded) -> dict[str, str]:
    """URLs of an empty Postgres database, an empty Mongo database and an emptied Redis."""
    name = f"test_{token_hex(6)}"
    admin = await asyncpg.connect(servers.urls["postgres"])
    try:
        await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    client = redis.asyncio.from_url(servers.urls["redis"])
    await client.flushall()
    await client.aclose()
    return {
        "postgres": _with_path(servers.urls["postgres"], name),
        "mongo": _with_path(servers.urls["mongo"], name),
        "redis": servers.urls["redis"],
    }


async def drop(servers: Embedded, urls: Mapping[str, str]) -> None:
    """The database, and the slot that holds its WAL; who streamed from it has hung up, and may not be gone yet."""
    name = urlsplit(urls["postgres"]).path[1:]
    admin = await asyncpg.connect(servers.urls["postgres"])
    try:
        slots = f"FROM pg_replication_slots WHERE database = '{name}'"
        await admin.execute(f"SELECT pg_terminate_backend(active_pid, 5000) {slots} AND active")
        await admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots}")
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


Detour = Callable[[dict[str, str]], Awaitable[None]]


class Nodes(list[Service]):
    """The nodes, and the addresses of the stores that they share."""

    def __init__(self, urls: dict[str, str]) -> None:
        super().__init__()
        self.urls = urls


@asynccontextmanager
async def databases(servers: Embedded) -> AsyncIterator[dict[str, str]]:
    """URLs of fresh ones."""
    urls = await fresh(servers)
    try:
        yield dict(urls)
    finally:
        await drop(servers, urls)


@asynccontextmanager
async def node(
    urls: Mapping[str, str],
    number: int = 0,
    auth: Auth = Auth(),  # noqa: B008
    **settings: Any,
) -> AsyncIterator[Service]:
    """One that may not be ready yet."""
    service = Service.of(Config(port=0, demo=True, node=f"node-{number}", auth=auth, **settings), urls)
    try:
        await service.open()
        yield service
    finally:
        await service.close()


@asynccontextmanager
async def cluster(
    servers: Embedded, nodes: int = 2, *, detour: Detour | None = None, **settings: Any
) -> AsyncIterator[Nodes]:
    """Nodes that are ready: every feed has a holder that keeps up. `detour` may change the addresses they are given."""
    async with AsyncExitStack() as stack:
        urls = await stack.enter_async_context(databases(servers))
        if detour is not None:
            await detour(urls)
        services = Nodes(urls)
        for number in range(nodes):
            services.append(await stack.enter_async_context(node(urls, number, **settings)))
        await until(lambda: ready(services))
        yield services


def ready(services: list[Service]) -> bool:
    """Every store has a feed that runs somewhere and has caught up with its start."""
    return all(any(feed.running for feed in feeds) for feeds in zip(*(each.feeds for each in services), strict=True))


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"
