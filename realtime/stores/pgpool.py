"""Connections for queries, and Postgres' errors in our words.

asyncpg for everything but the replication stream. The pool opens nothing before it is asked, so that a service starts
while Postgres is down; and whatever a broken connection raises means the same: the store does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from ..errors import Duplicate, RealtimeError, Refused, StoreDown
from .pgtypes import SESSION

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

CONNECT: Final = 3.0  # seconds, to connect or to wait for a free connection
COMMAND: Final = 5.0
RELEASE: Final = 1.0  # to bring a connection whose query was cancelled into order
CLOSE: Final = 3.0

# What we have given up, the server ends, too: behind a connection that was cut off in silence it would keep its locks.
_ABANDONED: Final = f"{COMMAND + 2:g}s"
_SETTINGS: Final = {
    **SESSION,
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "statement_timeout": _ABANDONED,
    "idle_in_transaction_session_timeout": _ABANDONED,
}
# Between the two messages of a statement that is prepared neither of those runs, and its table is locked already. Of
# PostgreSQL 17 or later; before, a dead peer is found by the keep-alive alone.
_FROM_17: Final = {"transaction_timeout": f"{4 * COMMAND:g}s"}
_REFUSALS: Final = ("0A", "21", "22", "23", "42", "44", "54", "55", "P0")  # classes of SQLSTATE: the value's fault
_RETRY: Final = frozenset({"55006", "55P03"})  # in use, locked: not the value's fault


class Pool:
    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._newer = _FROM_17

    async def open(self) -> None:
        settings = {**_SETTINGS, "application_name": f"realtime {self._name}"}
        connect: Any = self._connect  # the stubs name every argument of asyncpg.connect
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=10,
            timeout=CONNECT,
            command_timeout=COMMAND,
            target_session_attrs=SessionAttribute.primary,  # a standby takes no writes and gives no fences
            server_settings=settings,
            connect=connect,
        )

    async def _connect(self, *args: Any, server_settings: dict[str, str], **given: Any) -> Any:
        if self._newer:
            try:
                return await asyncpg.connect(*args, server_settings=server_settings | self._newer, **given)
            except asyncpg.UndefinedObjectError:  # a server that does not know the setting
                self._newer = {}
        return await asyncpg.connect(*args, server_settings=server_settings, **given)

    async def close(self) -> None:
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(CLOSE):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection, None]:
        """A connection; what goes wrong with it is raised as StoreDown, Refused or Duplicate."""
        if self._pool is None:
            raise StoreDown(f"{self._name} is not open")
        with translated(self._name):
            connection = await self._pool.acquire(timeout=CONNECT)
            try:
                yield connection
            except asyncio.CancelledError:
                connection.terminate()  # perhaps in the middle of a transaction, which asyncpg would reset with noise
                raise
            finally:
                with suppress(TimeoutError):  # the pool has thrown it away; what broke it is being raised already
                    await self._pool.release(connection, timeout=RELEASE)


async def connect(url: str, name: str) -> asyncpg.Connection[asyncpg.Record]:
    """One outside of a pool, for whoever has to keep it. Raises what `translated` turns into our words."""
    return await asyncpg.connect(
        url,
        timeout=CONNECT,
        command_timeout=COMMAND,
        target_session_attrs=SessionAttribute.primary,
        server_settings={**_SETTINGS, "application_name": f"realtime {name}"},
    )


@contextmanager
def translated(name: str) -> Generator[None, None, None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        raise named(error, name) from error
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise StoreDown(f"{name} is a standby at present") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise StoreDown(f"{name} does not answer: {type(error).__name__}") from error


def named(error: asyncpg.PostgresError, name: str) -> RealtimeError:
    """The failure that a client is told of, in Postgres' own words."""
    state = error.sqlstate or ""
    words = ": ".join(str(part) for part in (error.args[0] if error.args else "", error.detail) if part)
    if isinstance(error, asyncpg.UniqueViolationError):
        return Duplicate(words)
    if state.startswith(_REFUSALS) and state not in _RETRY:
        return Refused(words, hint=error.hint)
    return StoreDown(f"{name}: {words}")
