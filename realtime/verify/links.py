"""What a node reaches the stores through: a proxy for each, so that its way to one can be cut without the others.

A proxy that listens on TCP lets every user of the machine in to servers that ask for no password. So those of Postgres
and Redis listen on unix sockets in a private directory; Mongo's URL has a password.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .proxy import Address, Proxy

SOCKETS = {"postgres": ".s.PGSQL.5432", "redis": "socket"}  # Postgres' own name, which its clients expect

Links = Mapping[str, Proxy]


@asynccontextmanager
async def opened(urls: Mapping[str, str], directory: Path) -> AsyncIterator[Links]:
    """A proxy for each URL of a server of our own; the sockets are in `directory`, which is to be private and short."""
    async with AsyncExitStack() as stack:
        links = {}
        for store, url in urls.items():
            path = directory / SOCKETS[store] if store in SOCKETS else None
            links[store] = await stack.enter_async_context(Proxy(upstream(store, url), path))
        yield links


def upstream(store: str, url: str) -> Address:
    """Where a server listens."""
    parts = urlsplit(url)
    if store == "postgres":
        folder, port = (parse_qs(parts.query)[name][0] for name in ("host", "port"))
        return f"{folder}/.s.PGSQL.{port}"
    if store == "redis":
        return parts.path
    return parts.hostname or "", parts.port or 0


def through(store: str, url: str, link: Proxy) -> str:
    """The URL of the same server by way of its link."""
    parts = urlsplit(url)
    if store == "mongo":
        login = parts.netloc.rpartition("@")[0]
        query = f"{parts.query}&directConnection=true"  # else the server says where it is, and its clients go there
        return parts._replace(netloc=f"{login}@127.0.0.1:{link.port}", query=query).geturl()
    if store == "postgres":
        return f"postgresql://{parts.netloc}{parts.path}?host={link.path and link.path.parent}&port=5432"
    return f"unix://{link.path}"
