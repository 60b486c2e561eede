"""The replication connection: libpq through psycopg's `pq`, since asyncpg cannot stream.

One task reads and hands over by a bounded queue, so that no half-read message is ever cancelled; while the queue is
full it does not read, and TCP holds Postgres back. Another task reports once a second what is kept: that keeps the
connection alive while nothing is read, and asks for an answer, whose absence shows a connection that is dead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import psycopg
from psycopg import generators, pq
from psycopg.rows import TupleRow

from ..errors import StoreDown
from .pgoutput import Data, Keepalive, frame, status
from .pgpool import CONNECT
from .pgtypes import SESSION
from .pgversions import lsn, lsn_text

log = logging.getLogger("realtime.stores.postgres")

REPORT: Final = 1.0  # seconds between two reports
SILENCE: Final = 4.0  # without a word in spite of them, the connection is dead, as the server does it with us
CREATE: Final = 10.0  # how long to wait for open transactions before saying so and trying again
CHUNKS: Final = 64  # the queue's bound; a chunk is what one read of the socket gave

IN_USE: Final = (psycopg.errors.ObjectInUse, psycopg.errors.DuplicateObject)  # another node has, or just made, the slot
UNUSABLE: Final = (psycopg.errors.UndefinedObject, psycopg.errors.ObjectNotInPrerequisiteState)  # gone; lost

_SETTINGS: Final = "; ".join(
    f"SET {name} = '{value}'"
    for name, value in {**SESSION, "wal_sender_timeout": "4s"}.items()  # bounds how long a frozen holder has the slot
).encode()
_NETWORK: Final = {
    "connect_timeout": int(CONNECT),
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

Chunk = list[Data | Keepalive]


class Stream:
    """A replication connection. It speaks the simple protocol only, without parameters: names are checked before."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow], store: str) -> None:
        self._connection, self._store = connection, store
        self._pgconn = connection.pgconn
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue(CHUNKS)
        self._tasks: list[asyncio.Task[None]] = []
        self._received = self._kept = 0

    async def source(self) -> str:
        """What an LSN is a place in: the cluster and its timeline."""
        [(system, timeline, *_)] = await self._execute("IDENTIFY_SYSTEM")
        return f"{system}-{timeline}"

    async def create_slot(self, slot: str) -> int:
        """Waits for the transactions that write at present, as long as it takes. Returns where the slot begins.

        Raises IN_USE.
        """
        await self._execute(f"SET statement_timeout = '{CREATE:g}s'")
        while (place := await self._create_slot(slot)) is None:
            log.warning("%s: slot %s waits for the end of transactions that are open for long", self._store, slot)
        await self._execute("SET statement_timeout = 0")
        return place

    async def _create_slot(self, slot: str) -> int | None:
        """None after CREATE seconds."""
        create = f"SELECT * FROM pg_create_logical_replication_slot('{slot}', 'pgoutput')"  # noqa: S608
        try:
            [(_, place)] = await self._execute(create)
        except psycopg.errors.QueryCanceled:
            return None
        return lsn(place)

    async def drop_slot(self, slot: str) -> None:
        """Raises IN_USE."""
        await self._execute(f"SELECT pg_drop_replication_slot('{slot}')")

    async def start(self, slot: str, place: int) -> None:
        """Stream the slot's publication, which has its name. From here on only `read` and `keep`.

        Raises IN_USE, UNUSABLE.
        """
        options = f"(proto_version '1', publication_names '{slot}')"
        self._pgconn.send_query(f"START_REPLICATION SLOT {slot} LOGICAL {lsn_text(place)} {options}".encode())
        for result in await self._connection.wait(generators.execute(self._pgconn)):
            if result.status != pq.ExecStatus.COPY_BOTH:
                raise psycopg.errors.error_from_result(result)
        self._received = self._kept = place
        for work, name in ((self._receive(), "reads"), (self._report(), "reports")):
            self._tasks.append(asyncio.create_task(work, name=f"{self._store} {name} {slot}"))

    async def read(self, timeout: float) -> Chunk | None:
        """The next frames; None if there were none within `timeout` seconds. Raises StoreDown."""
        if (chunk := self.ready()) is not None:
            return chunk
        getting = asyncio.ensure_future(self._chunks.get())
        try:
            await asyncio.wait([getting, *self._tasks], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
        for task in self._tasks:
            if task.done():
                with broken(self._store):
                    task.result()
        return None

    def ready(self) -> Chunk | None:
        """Frames that have come in already."""
        return None if self._chunks.empty() else self._chunks.get_nowait()

    def keep(self, place: int) -> None:
        """What was committed before `place` is kept on our side: Postgres may forget it."""
        self._kept = max(self._kept, place)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            with suppress(psycopg.Error):  # dead already: the next one repeats what we could not say
                self._say(reply=False)
        await self._connection.close()

    async def _execute(self, command: str) -> list[TupleRow]:
        cursor = await self._connection.execute(command.encode())
        return await cursor.fetchall() if cursor.description else []

    async def _receive(self) -> None:
        while True:
            if chunk := self._drain():
                await self._chunks.put(chunk)
            await self._readable()
            self._pgconn.consume_input()

    def _drain(self) -> Chunk:
        """All frames that libpq has got."""
        chunk: Chunk = []
        while True:
            size, data = self._pgconn.get_copy_data(1)
            if size == 0:
                return chunk
            if size < 0:
                raise StoreDown(f"{self._store}: the replication stream ended: {self._ending()}")
            found = frame(bytes(data))
            if isinstance(found, Keepalive):
                self._received = max(self._received, found.end)
                if found.reply:
                    self._say(reply=False)
            chunk.append(found)

    def _ending(self) -> str:
        result = self._pgconn.get_result()
        return result.get_error_message().strip() if result else "without a reason"

    async def _readable(self) -> None:
        loop, readable, socket = asyncio.get_running_loop(), asyncio.Event(), self._pgconn.socket
        loop.add_reader(socket, readable.set)
        try:
            async with asyncio.timeout(SILENCE):
                await readable.wait()
        finally:
            loop.remove_reader(socket)

    async def _report(self) -> None:
        while True:
            self._say(reply=True)
            await asyncio.sleep(REPORT)

    def _say(self, *, reply: bool) -> None:
        self._pgconn.put_copy_data(status(max(self._received, self._kept), self._kept, time.time(), reply=reply))
        self._pgconn.flush()


@asynccontextmanager
async def connected(url: str, store: str) -> AsyncGenerator[Stream, None]:
    """A replication connection; what breaks it is raised as StoreDown."""
    with broken(store):
        connection = await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            prepare_threshold=None,
            replication="database",
            client_encoding="UTF8",
            application_name=f"realtime {store} changes",
            connect_timeout=int(CONNECT),
            target_session_attrs="primary",  # as the pool has it
        )
        stream = Stream(connection, store)
        try:
            await connection.execute(_SETTINGS)
            yield stream
        finally:
            await stream.close()


@contextmanager
def broken(store: str) -> Generator[None, None, None]:
    try:
        yield
    except (psycopg.Error, OSError, TimeoutError) as error:
        words = str(error).strip().removeprefix("ERROR:").strip() or "no answer"
        raise StoreDown(f"{store}: the replication stream broke: {words}") from error
