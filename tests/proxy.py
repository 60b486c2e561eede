"""A TCP proxy that fails on demand, for the breaks that no server can be asked for."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Literal, Self

Mode = Literal["ok", "refuse", "blackhole", "deaf"]


class Proxy:
    """In front of `upstream`, a (host, port) or the path of a unix socket; listens on 127.0.0.1:`port`.

    `mode` may change at any time: `ok`; `refuse` (new connections are closed); `blackhole` (nothing passes, nothing is
    said); `deaf` (nothing passes from the server to the client). What was swallowed is gone: such a connection stays
    dead. `reset()` cuts every connection with a RST.
    """

    mode: Mode = "ok"

    def __init__(self, upstream: tuple[str, int] | str) -> None:
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        return len(self._writers) // 2

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # close sends a RST
        for writer in self._writers:
            if not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            writer.transport.abort()
            return
        up_reader, up_writer = await self._connect()
        pair = {writer, up_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._pump(reader, up_writer, "blackhole"), self._pump(up_reader, writer, "deaf"))
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deadly: Mode) -> None:
        swallowed = False
        data = b"-"
        while data:
            try:
                data = await reader.read(65536)
            except OSError:
                data = b""
            swallowed = swallowed or self.mode in ("blackhole", deadly)
            if not swallowed and data:
                writer.write(data)
        if not swallowed:  # the end of a connection is swallowed, too
            writer.transport.abort()
