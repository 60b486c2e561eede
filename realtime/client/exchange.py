"""Requests to one host: h11 speaks HTTP/1.1, asyncio's streams carry it, and a few connections are kept for the next.

A request that is cancelled takes its connection along, as nobody knows what is still to come on it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress

import h11

from ..errors import RealtimeError, Unavailable
from .address import Address
from .answers import Answer

CONNECT = 5.0  # seconds until a connection is there
ANSWER = 30.0  # seconds until an answer is there; the service holds one for ten where its event is waited for
IDLE = (
    5.0  # seconds that a connection is kept: well within what the service keeps it, so that none is used as it closes
)
MOST = 16  # connections at once; further requests wait
CHUNK = 1 << 16


class Http:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._ssl = ssl.create_default_context() if address.secure else None
        self._turn = asyncio.Semaphore(MOST)
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._closed = False

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Raises Unavailable where there is no answer: whether a write was done is not known then."""
        sent = {"Host": self._address.name, **headers}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        request = h11.Request(method=method, target=self._address.prefix + path, headers=list(sent.items()))
        async with self._turn:
            if self._closed:
                raise RealtimeError("the connection is closed")
            try:
                async with asyncio.timeout(ANSWER):
                    return await self._exchange(request, body)
            except (OSError, EOFError, TimeoutError, h11.RemoteProtocolError) as error:
                why = str(error) or type(error).__name__
                raise Unavailable(f"no answer from {self._address}: {why}") from error

    async def close(self) -> None:
        self._closed = True
        self._idle.clear()
        for connection in list(self._open):
            await self._drop(connection)

    async def _exchange(self, request: h11.Request, body: bytes | None) -> Answer:
        connection = await self._connection()
        try:
            answer = await connection.exchange(request, body)
        except BaseException:
            connection.abort()
            self._open.discard(connection)
            raise
        if connection.next_cycle() and not self._closed:
            self._idle.append(connection)
        else:
            await self._drop(connection)
        return answer

    async def _connection(self) -> _Connection:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(now):
                return connection
            await self._drop(connection)
        async with asyncio.timeout(CONNECT):
            reader, writer = await asyncio.open_connection(self._address.host, self._address.port, ssl=self._ssl)
        connection = _Connection(reader, writer)
        self._open.add(connection)
        return connection

    async def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        await connection.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self._used = 0.0

    def usable(self, now: float) -> bool:
        return now - self._used < IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: h11.Request, body: bytes | None) -> Answer:
        events = [request, *([h11.Data(body)] if body else []), h11.EndOfMessage()]
        for event in events:
            self._writer.write(self._http.send(event) or b"")
        with suppress(ConnectionError):  # one that is turned away early may have its answer all the same
            await self._writer.drain()
        while not isinstance(response := await self._next(), h11.Response):
            pass  # a 1xx, before the answer
        pieces = []
        while isinstance(event := await self._next(), h11.Data):
            pieces.append(bytes(event.data))
        headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status_code, headers, b"".join(pieces))

    async def _next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(CHUNK))
        if not isinstance(event, (h11.InformationalResponse, h11.Response, h11.Data, h11.EndOfMessage)):
            raise EOFError("the connection was closed")
        return event

    def next_cycle(self) -> bool:
        """Whether it can be used again."""
        self._used = asyncio.get_running_loop().time()
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
