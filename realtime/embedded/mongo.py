"""A Mongo-compatible server: secantusdb's console script as a process of its own.

GPL-2.0-only, so it is run and never imported. Without `--sync-on-commit` it loses acknowledged writes when killed. It
can only make its first user while it asks for none, so the first start is two: its password is kept when that is done.
"""

from __future__ import annotations

import importlib.metadata
import re
import secrets
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from ..errors import StartError
from .directory import Directory, write
from .process import Process

OPTIONS = (
    *("--config", "empty.toml"),  # else it would read the user's own
    *("--host", "127.0.0.1", "--port", "0"),  # `_listens` learns which
    *("--storage-path", "data", "--sync-on-commit"),
    *("--noop-heartbeat-seconds", "10"),  # as mongod does: the mark of a quiet change stream stays resumable
)
_LISTENING = re.compile(r"secantus listening on 127\.0\.0\.1:(\d+)")


class Mongo:
    name = "mongo"

    def __init__(self, directory: Directory) -> None:
        self._script = _script()
        self.home = directory.home(self.name)
        self._password_file = self.home / "password"
        self._url_file = self.home / "url"
        self._password = ""
        self._port = 0
        self.process = Process(
            self.name, self.home, directory.path / "mongo.log", stop=Signals.SIGTERM, death=Signals.SIGKILL
        )

    async def start(self, words: Sequence[str] = ()) -> None:
        await self.process.claim()
        write(self.home / "empty.toml", "")
        try:
            if not self._password_file.exists():
                await self._initialise()
            self._password = self._password_file.read_text()
            self.process.spawn([self._script, *OPTIONS, "--auth", *words])
            await self.process.ready(self._answers)
            write(self._url_file, self.url)
        except PyMongoError as error:
            raise StartError(f"mongo does not take us for its user: {error}") from error

    @property
    def url(self) -> str:
        return f"mongodb://realtime:{self._password}@127.0.0.1:{self._port}/realtime?authSource=admin"

    @property
    def reach(self) -> str:
        """By way of a file: what is printed ends in logs."""
        return f'mongosh "$(cat {shlex.quote(str(self._url_file))})"'

    async def _initialise(self) -> None:
        """Without a password nobody has used what is there: it is the rest of a first start that was killed."""
        shutil.rmtree(self.home / "data", ignore_errors=True)
        self.process.spawn([self._script, *OPTIONS])
        await self.process.ready(self._listens)
        password = secrets.token_urlsafe(24)
        client: AsyncMongoClient[dict[str, Any]]
        async with AsyncMongoClient("127.0.0.1", self._port) as client:
            await client.admin.command("createUser", "realtime", pwd=password, roles=["root"])
        await self.process.stop()
        write(self._password_file, password)

    async def _listens(self) -> bool:
        """The server chooses the port itself, so that nobody can take it in between, and says it in its log."""
        if found := _LISTENING.search(self.process.output()):
            self._port = int(found[1])
        return found is not None

    async def _answers(self) -> bool:
        if not await self._listens():
            return False
        client: AsyncMongoClient[dict[str, Any]]
        async with AsyncMongoClient(self.url) as client:
            await client.admin.command("ping")
        return True


def _script() -> Path:
    try:
        files = importlib.metadata.files("secantusdb") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "secantusd-py":
            return Path(str(file.locate())).resolve()
    raise ModuleNotFoundError("secantusdb")
