"""Servers that say what they are told to: what no node says, clients must be seen to notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tornado.web import Application, RequestHandler

from tests.web import listening

HEAD = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def answering(*pieces: bytes, open_end: bool = False) -> AsyncIterator[str]:
    """A server that answers any request with these bytes, and then closes the connection, or leaves it open."""
    held = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if open_end:
            await held.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        held.set()


def serving(handler: type[RequestHandler]) -> AbstractAsyncContextManager[str]:
    """The address of a service of which every path is this one."""
    return listening(Application([(".*", handler)]))
