"""Hears from PostgreSQL whose account, sign-ins or tokens have changed, whoever changed them (`schema.sql`).

On a connection of its own, which is asked each second whether it is still there: behind one that was cut off in silence
a revocation would never be heard. Who hears nothing says so (`live`), and is told to look at everybody afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from ..errors import RealtimeError
from ..stores.pgpool import connect, translated
from ..tasks import Tasks, delays
from .schema import CHANNEL

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger("realtime.auth.watch")

HEARTBEAT: Final = 1.0  # seconds between two questions
PATIENCE: Final = 1.0  # for the answer


class Watch:
    """`told` is called with a user's id, with None after each connection; `broken` when one is lost."""

    def __init__(self, url: str, told: Callable[[str | None], None], broken: Callable[[], None]) -> None:
        self._url, self._told, self._broken = url, told, broken
        self._tasks = Tasks()
        self._pauses = delays()
        self._said = False  # that it is cut off
        self.live = False

    def open(self) -> None:
        self._tasks.start(self._run(), "watch of accounts")

    async def close(self) -> None:
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            try:
                with translated("the watch of accounts"):
                    await self._listen()
            except RealtimeError as error:
                self._say(str(error))
            except Exception:  # a defect in what is told must not leave this node deaf
                log.exception("a change of accounts could not be taken")
            await asyncio.sleep(next(self._pauses))

    async def _listen(self) -> None:
        """Until the connection breaks, which is raised."""
        connection = await connect(self._url, "watch of accounts")
        try:
            gone = asyncio.Event()
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(CHANNEL, self._heard)
            self._begin()
            while True:
                await self._pause(gone)
                await connection.execute("SELECT 1", timeout=PATIENCE)
        finally:
            self._end()
            connection.terminate()

    def _begin(self) -> None:
        if self._said:
            log.info("changes of accounts are heard again")
        self._said, self._pauses = False, delays()
        self.live = True
        self._told(None)

    def _end(self) -> None:
        if self.live:
            self.live = False
            self._broken()

    async def _pause(self, gone: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(HEARTBEAT):
                await gone.wait()
        except TimeoutError:
            return

    def _heard(self, connection: Any, process: int, channel: str, payload: Any) -> None:
        try:
            self._told(str(payload) or None)
        except Exception:
            log.exception("a change of accounts could not be taken")
            connection.terminate()  # the next one begins by looking at everybody

    def _say(self, reason: str) -> None:
        if not self._said:
            log.warning("changes of accounts are not heard, so each request asks: %s", reason)
            self._said = True
