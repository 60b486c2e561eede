"""One WebSocket that comes back by itself, with what is subscribed to over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection

from ..errors import Forbidden, ProtocolError, Unauthorized
from ..protocol import Auth, AuthExpiring, Failure, Ping, Request, Welcome, decode_message
from ..tasks import together
from .address import Address
from .messages import State
from .selections import Selection, Selections, jitter
from .tokens import Tokens, header

log = logging.getLogger("realtime.client")

OPENING = 10.0  # seconds until a connection is there, and greeted
GOODBYE = 1.0  # seconds that a connection which is left waits for the answer
MOST_BYTES = 1 << 26  # of a message
RESTART, TOKEN_ENDED = 1012, 4401  # close codes
TOO_MUCH = 4008, 4429  # we were too slow, or too loud
FOR_GOOD = range(4500, 5000)  # there is no use in coming back


class Link:
    """`changed`: told of every change of `state`, and when it has no selection any more. `over`: it has given up."""

    def __init__(self, address: Address, tokens: Tokens, changed: Callable[[], None]) -> None:
        self.state: State = "connecting"
        self.over = False
        self._address, self._tokens, self._changed = address, tokens, changed
        self._selections = Selections()
        self._due = asyncio.Event()  # there may be something to say
        self._greeted = False
        self._came = False  # it was live once
        self._tries = 0  # to connect, in a row
        self._refused = 0  # of those, by 401
        self._heartbeat = OPENING
        self._ping = self._renew = False  # to be said

    def __len__(self) -> int:
        return len(self._selections)

    def fits(self, new: Selection) -> bool:
        return not self.over and self._selections.fits(new)

    def add(self, selection: Selection) -> None:
        self._selections.add(selection)
        self._tell()

    def drop(self, selection: Selection) -> None:
        """It is wanted no more."""
        self._selections.drop(selection)
        self._tell()
        if not len(self._selections):
            self._changed()

    def resume(self, selection: Selection) -> None:
        """Its sink has room again."""
        selection.paused = False
        self._tell()

    def end(self, error: Exception | None) -> None:
        """All of them."""
        self.over = True
        self._selections.end(error)

    # coming back ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever, or until coming back is no use."""
        try:
            while True:
                pause = await self._visit()
                self._lost()
                await asyncio.sleep(pause + jitter(self._tries))
                self._tries += 1
        except Exception as error:  # of ours, or of whoever was asked for a token: all hear of it
            if not len(self._selections):
                log.exception("the connection to %s died, and nobody is there to hear of it", self._address)
            self.end(error)
        finally:
            self._lost()
            self._changed()

    async def _visit(self) -> float:
        """Connect, and talk until that breaks; the least time to stay away. Raises what is no use to come back from."""
        token = await self._tokens.get()
        try:
            async with asyncio.timeout(OPENING):
                connection = await self._connect(token)
        except websockets.InvalidStatus as error:
            return await self._turned_away(error.response.status_code, error.response.headers.get("Retry-After"), token)
        except (OSError, TimeoutError, EOFError, websockets.InvalidHandshake) as error:
            log.info("no connection to %s: %s", self._address, error or type(error).__name__)
            return 0
        try:
            async with connection:
                await together({"client reads": self._read(connection), "client writes": self._write(connection)})
        except websockets.ConnectionClosed as error:
            closed = error.rcvd
            log.info("the connection to %s closed: %s", self._address, closed or "cut")
            return await self._closed(closed.code, closed.reason, token) if closed is not None else 0
        except (OSError, TimeoutError) as error:
            log.info("the connection to %s broke: %s", self._address, error or type(error).__name__)
        return 0

    async def _connect(self, token: str | None) -> ClientConnection:
        return await _Connect(
            self._address.websocket,
            additional_headers=header(token),
            compression=None,
            max_size=MOST_BYTES,
            ping_interval=None,  # ours is in `_read`, by the service's own heartbeat
            open_timeout=None,
            close_timeout=GOODBYE,
            proxy=None,
        )

    async def _turned_away(self, status: int, after: str | None, token: str | None) -> float:
        if status == HTTPStatus.UNAUTHORIZED:
            self._refused += 1
            if self._refused > 1 or await self._tokens.renew(token) == token:
                raise Unauthorized(f"{self._address} does not take the token")
            return 0
        if status == HTTPStatus.FORBIDDEN:
            raise Forbidden(f"{self._address} does not let us in")
        # what is so at first is a mistake in the address; later it is a proxy whose service is away
        if status == HTTPStatus.UPGRADE_REQUIRED or (status < 500 and status != 429 and not self._came):
            raise ProtocolError(f"no WebSocket at {self._address.websocket}: status {status}")
        return float(after) if after is not None and after.isdigit() else 0

    async def _closed(self, code: int, reason: str, token: str | None) -> float:
        if code in FOR_GOOD:
            raise ProtocolError(f"{self._address} closed for good: {code} {reason}".rstrip())
        if code == TOKEN_ENDED:
            await self._tokens.renew(token)
        if code == RESTART:
            self._tries = 0
        return 1.0 if code in TOO_MUCH else 0

    def _lost(self) -> None:
        self._greeted = self._ping = self._renew = False
        self._heartbeat = OPENING
        self._selections.lost()
        self._tell()

    # talking --------------------------------------------------------------------------------------------------------

    async def _read(self, connection: ClientConnection) -> None:
        """Until it closes. After one heartbeat of silence it is asked for a sign of life, after two it is dead."""
        asked = False
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    frame = await connection.recv(decode=False)
            except TimeoutError:
                if asked:
                    connection.transport.abort()
                    raise TimeoutError(f"silent for {2 * self._heartbeat:g} s") from None
                asked = self._ping = True
                self._due.set()
            else:
                asked = False
                self._hear(frame)

    def _hear(self, frame: bytes) -> None:
        try:
            message = decode_message(frame, "json")
        except msgspec.DecodeError as error:
            raise ProtocolError(f"what the service says is not understood: {error}") from error
        match message:
            case Welcome():
                self._greeted, self._heartbeat, self._refused = True, message.heartbeat, 0
            case AuthExpiring():
                self._renew = True
            case Failure(id=None):
                log.info("%s says: %s", self._address, message.message)
            case _:
                if not self._selections.hear(message, asyncio.get_running_loop().time()):
                    return
        self._tell()

    async def _write(self, connection: ClientConnection) -> None:
        while True:
            self._due.clear()
            while (request := await self._request()) is not None:
                await connection.send(msgspec.json.encode(request), text=True)
            try:
                async with asyncio.timeout_at(self._selections.due()):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def _request(self) -> Request | None:
        """What is to be said next."""
        if self._ping:
            self._ping = False
            return Ping()
        if self._renew:
            self._renew = False
            old = await self._tokens.get()
            token = await self._tokens.renew(old)
            if token is not None and token != old:
                return Auth(token)
        return self._selections.request(asyncio.get_running_loop().time())

    # state ----------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """What has happened may be a change of state, or something to say."""
        self._due.set()
        before, self.state = self.state, self._state()
        if self.state == "live":
            self._came = True
            self._tries = 0
        if self.state != before:
            self._changed()

    def _state(self) -> State:
        if not self._greeted:
            return "reconnecting" if self._came else "connecting"
        return "live" if self._selections.settled else "catching up"


class _Connect(websockets.connect):
    """A token is for the host that was named, wherever that sends us."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc
