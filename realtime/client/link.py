"""One WebSocket that comes back by itself, and what is subscribed to over it.

An event on the wire names no subscription, and one that two selections want comes once. So the selections of a link
never overlap, and share a `max_rate` where they share a channel; what does not fit goes to a link of its own.

What is to be said is not queued but found: a selection that was not asked for on this connection is asked for, with the
cursor of its own. So a new connection needs nothing beside it, and nothing grows while there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from itertools import count
from random import uniform
from typing import Protocol

import msgspec
import websockets
from msgspec import UNSET
from websockets.asyncio.client import ClientConnection

from .. import protocol
from ..errors import Forbidden, ProtocolError, RealtimeError, TooMany, Unauthorized, Unavailable
from ..protocol import (
    Auth,
    AuthExpiring,
    Event,
    Failure,
    Fresh,
    Leave,
    Mode,
    Ping,
    Request,
    ServerMessage,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
    decode_message,
)
from ..tasks import together
from .address import Address
from .answers import named
from .messages import State
from .tokens import Tokens, header

log = logging.getLogger("realtime.client")

FIRST, LONGEST = 0.2, 15.0  # seconds before coming back: at most, at first; and ever
OPENING = 10.0  # seconds until a connection is there, and greeted
GOODBYE = 1.0  # seconds that a connection which is left waits for the answer
MOST = 100  # selections; the service allows 128 unless told otherwise
MOST_BYTES = 1 << 26  # of a message
RESTART = 1012
FOR_GOOD = range(4500, 5000)  # close codes after which there is no use in coming back
TOKEN_ENDED = 4401
TOO_MUCH = 4008, 4429  # we were too slow, or too loud


class Sink(Protocol):
    """Where the messages of a selection go. `cursor`: after all that has come."""

    full: bool

    @property
    def cursor(self) -> str | None: ...

    def take(self, message: Subscribed | protocol.Reset | Event | Fresh) -> None: ...

    def broken(self) -> None:
        """The connection is gone."""

    def end(self, error: Exception | None) -> None:
        """Nothing comes any more: because of this, or as it was wished."""


class Selection:
    """`id`: of the subscribe on this connection. `live`: it was answered. `paused`: its sink is full."""

    def __init__(self, channel: str, key: str | None, mode: Mode, max_rate: float | None, sink: Sink) -> None:
        self.channel, self.key, self.mode, self.max_rate, self.sink = channel, key, mode, max_rate, sink
        self.id: int | None = None
        self.live = self.paused = False
        self.due = 0.0  # not to be asked for before
        self.tries = 0  # in a row that were refused for the time being

    def overlaps(self, other: Selection) -> bool:
        return self.channel == other.channel and (None in (self.key, other.key) or self.key == other.key)

    def forget(self) -> None:
        self.id, self.live = None, False


class Link:
    """`changed`: told of every change of `state`, and when it has no selection any more. `over`: it has given up."""

    def __init__(self, address: Address, tokens: Tokens, changed: Callable[[], None]) -> None:
        self.state: State = "connecting"
        self.over = False
        self._address, self._tokens, self._changed = address, tokens, changed
        self._selections: dict[tuple[str, str | None], Selection] = {}
        self._asked: dict[int, Selection] = {}
        self._gone: list[int] = []  # subscriptions to end
        self._ids = count(1)
        self._due = asyncio.Event()  # there may be something to say
        self._greeted = False
        self._came = False  # it was live once
        self._tries = 0  # in a row to connect
        self._refused = 0  # of those, by 401
        self._heartbeat = OPENING
        self._ping = self._renew = False  # to be said

    # selections -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._selections)

    def fits(self, new: Selection) -> bool:
        if self.over or len(self._selections) >= MOST:
            return False
        return not any(
            new.overlaps(other) or (new.channel == other.channel and new.max_rate != other.max_rate)
            for other in self._selections.values()
        )

    def add(self, selection: Selection) -> None:
        self._selections[selection.channel, selection.key] = selection
        self._tell()

    def drop(self, selection: Selection) -> None:
        """It is wanted no more."""
        if self._selections.get((selection.channel, selection.key)) is selection:
            del self._selections[selection.channel, selection.key]
            self._put_down(selection)
            self._tell()
            if not self._selections:
                self._changed()

    def resume(self, selection: Selection) -> None:
        """Its sink has room again."""
        selection.paused = False
        self._tell()

    def end(self, error: Exception | None) -> None:
        """All of them."""
        self.over = True
        selections, self._selections = list(self._selections.values()), {}
        for selection in selections:
            selection.sink.end(error)

    def _put_down(self, selection: Selection) -> None:
        if selection.id is not None:
            self._asked.pop(selection.id, None)
            self._gone.append(selection.id)
        selection.forget()

    # coming back ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever, or until coming back is no use."""
        try:
            while True:
                pause = await self._visit()
                self._lost()
                await asyncio.sleep(pause + uniform(0, min(FIRST * 2**self._tries, LONGEST)))  # noqa: S311
                self._tries = min(self._tries + 1, 16)
        except Exception as error:  # of ours, or of whoever was asked for a token: all hear of it
            if not self._selections:
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
            code = error.rcvd.code if error.rcvd is not None else 0
            reason = error.rcvd.reason if error.rcvd is not None else "cut"
            log.info("the connection to %s closed: %d %s", self._address, code, reason)
            return await self._closed(code, reason, token)
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
        self._asked.clear()
        self._gone.clear()
        for selection in self._selections.values():
            selection.forget()
            selection.due = 0
            selection.sink.broken()
        self._tell()

    # writing --------------------------------------------------------------------------------------------------------

    async def _write(self, connection: ClientConnection) -> None:
        while True:
            self._due.clear()
            if self._renew:
                self._renew = False
                token = await self._tokens.renew(await self._tokens.get())
                if token is not None:
                    await self._say(connection, Auth(token))
            while (request := self._request()) is not None:
                await self._say(connection, request)
            await self._something_due()

    async def _say(self, connection: ClientConnection, request: Request) -> None:
        await connection.send(msgspec.json.encode(request), text=True)

    def _request(self) -> Request | None:
        """What is to be said next."""
        if self._ping:
            self._ping = False
            return Ping()
        if self._gone:
            return Unsubscribe(self._gone.pop(0))
        now = asyncio.get_running_loop().time()
        selection = next((each for each in self._wanting() if each.due <= now), None)
        if selection is None:
            return None
        selection.id = next(self._ids)
        self._asked[selection.id] = selection
        return Subscribe(
            selection.id,
            selection.channel,
            selection.key,
            selection.sink.cursor,
            selection.mode,
            selection.max_rate,
        )

    def _wanting(self) -> list[Selection]:
        return [each for each in self._selections.values() if each.id is None and not each.paused]

    async def _something_due(self) -> None:
        soonest = min((each.due for each in self._wanting()), default=None)
        try:
            async with asyncio.timeout_at(soonest):
                await self._due.wait()
        except TimeoutError:
            pass

    # reading --------------------------------------------------------------------------------------------------------

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
                continue
            asked = False
            try:
                self._hear(decode_message(frame, "json"))
            except msgspec.DecodeError as error:
                raise ProtocolError(f"what the service says is not understood: {error}") from error

    def _hear(self, message: ServerMessage) -> None:
        match message:
            case Event():
                self._event(message)
            case Subscribed() if isinstance(message.id, int) and message.id in self._asked:
                selection = self._asked[message.id]
                self._give(selection, message)
                if not message.more:
                    selection.live, selection.tries = True, 0
                    self._tell()
            case protocol.Reset() | Fresh() | Leave():
                self._about(message)
            case Failure():
                self._failure(message)
            case Welcome():
                self._greeted, self._heartbeat, self._refused = True, message.heartbeat, 0
                self._tell()
            case AuthExpiring():
                self._renew = True
                self._due.set()

    def _event(self, event: Event) -> None:
        for key in (None, event.key):
            selection = self._selections.get((event.channel, key))
            if selection is not None and selection.live:
                self._give(selection, event)

    def _about(self, message: protocol.Reset | Fresh | Leave) -> None:
        selection = self._selections.get((message.channel, None if message.key is UNSET else message.key))
        if selection is None or not selection.live:
            return
        if isinstance(message, Leave):
            self._finish(selection, Forbidden(f"you may not see {message.channel} any more"))
        else:
            self._give(selection, message)

    def _give(self, selection: Selection, message: Subscribed | protocol.Reset | Event | Fresh) -> None:
        selection.sink.take(message)
        if selection.sink.full and not getattr(message, "more", False):
            selection.paused = True
            self._put_down(selection)
            self._tell()

    def _failure(self, failure: Failure) -> None:
        error = named(failure.code, failure.message, failure.hint or None)
        selection = self._asked.get(failure.id) if isinstance(failure.id, int) else None
        if selection is None:
            log.info("%s says: %s", self._address, error)
        elif isinstance(error, (Unavailable, TooMany)):
            self._asked.pop(selection.id or 0)
            selection.forget()
            wait = (error.retry_after or 0) / 4 + uniform(0, min(FIRST * 2**selection.tries, LONGEST))  # noqa: S311
            selection.due = asyncio.get_running_loop().time() + wait
            selection.tries = min(selection.tries + 1, 16)
            self._tell()
        else:
            self._finish(selection, error)

    def _finish(self, selection: Selection, error: RealtimeError) -> None:
        """The service has ended it."""
        self._asked.pop(selection.id or 0, None)
        selection.forget()
        self.drop(selection)
        selection.sink.end(error)

    # state ----------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
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
        settled = all(each.live or each.paused for each in self._selections.values())
        return "live" if settled else "catching up"


class _Connect(websockets.connect):
    """A token is for the host that was named, wherever that sends us."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc
