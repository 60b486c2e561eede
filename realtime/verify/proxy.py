"""A proxy between a node and a store that fails on demand, for the breaks that no server can be asked for.

It swallows rather than delays what it must not pass: a connection of which something was swallowed stays dead, also
when all is well again, as one does whose peer has given up.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

Mode = Literal["ok", "refuse", "blackhole", "deaf", "mute", "slow"]
Address = tuple[str, int] | str  # TCP, or the path of a unix socket

CHUNK = 65536


class Proxy:
    """In front of `upstream`; listens on the unix socket `path`, or else on a port of 127.0.0.1.

    `mode` may change at any time: `ok`; `refuse` (new connections are closed); `blackhole` (nothing passes, nothing is
    said); `deaf` (nothing passes from the server to the client); `mute` (nothing the other way); `slow` (what has come
    is held for `delay` seconds, and what comes meanwhile waits behind it). So may `upstream`, of new connections.
    """

    def __init__(self, upstream: Address, path: Path | None = None) -> None:
        self.upstream = upstream
        self.mode: Mode = "ok"
        self.delay = 0.05
        self.port = 0  # of TCP, once open
        self.path = path
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._accept, self.path)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        return len(self._writers) // 2

    def reset(self) -> None:
        """Cut every connection, with a RST where it is TCP."""
        linger = struct.pack("ii", 1, 0)  # close sends a RST
        for writer in self._writers:
            if not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.mode == "refuse":
                raise ConnectionRefusedError
            up_reader, up_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, up_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._pump(reader, up_writer, "mute"), self._pump(up_reader, writer, "deaf"))
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.upstream, str):
            return await asyncio.open_unix_connection(self.upstream)
        return await asyncio.open_connection(*self.upstream)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deadly: Mode) -> None:
        swallowed = False
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                swallowed = swallowed or self._swallows(deadly)
                if not swallowed:
                    await self._pass(data, writer)
        if not (swallowed or self._swallows(deadly)):  # the end of a connection is swallowed, too
            writer.transport.abort()

    def _swallows(self, deadly: Mode) -> bool:
        return self.mode in ("blackhole", deadly)

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.mode == "slow":
            await asyncio.sleep(self.delay)
        writer.write(data)
        await writer.drain()  # one that does not read keeps the other from writing, as it would without us
