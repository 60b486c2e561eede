"""The protocol over a WebSocket: many subscriptions, both ways, JSON as text frames or MessagePack as binary ones.

Nothing is awaited in `on_message`, where Tornado reads the pongs: each subscribe runs as a task of its own, so that a
store that is slow to answer holds up nobody else. What waits in the session goes out through an `Outlet`.
"""

from __future__ import annotations

import asyncio
import logging

from tornado.websocket import WebSocketHandler

from ..auth.gate import Shown
from ..auth.jwts import LONGEST
from ..errors import Draining, Flooding, Forbidden, ProtocolError, RealtimeError, TooMany
from ..protocol import (
    Auth,
    Authenticated,
    Codec,
    Failure,
    Ping,
    Pong,
    Request,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode_request,
)
from .base import Handler
from .bounds import Caller, Meter
from .credentials import check_origin_is_told
from .heart import HEARTBEAT
from .outlet import Outlet
from .straight import forget_handshake

log = logging.getLogger("realtime.websocket")

SUBPROTOCOLS: dict[str, Codec] = {"realtime.v1.json": "json", "realtime.v1.msgpack": "msgpack"}


class LiveSocket(WebSocketHandler, Handler):
    codec: Codec = "json"
    outlet: Outlet | None = None  # while it is open

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        chosen = next((name for name in subprotocols if name in SUBPROTOCOLS), None)
        self.codec = SUBPROTOCOLS[chosen] if chosen else "json"
        return chosen

    async def prepare(self) -> None:
        if self.door.draining:
            raise Draining("this node is stopping")
        await self.admit(ticket=True)
        if self.identity.proof == "sign-in" and "ticket" not in self.request.query_arguments:
            check_origin_is_told(self)
        self.door.bounds.check(self.caller)

    def open(self, *_: str, **__: str) -> None:
        self.set_nodelay(True)
        forget_handshake(self)
        self._joining: dict[int | str, asyncio.Task[None]] = {}
        self._authenticating: asyncio.Task[None] | None = None
        outlet = Outlet(self.door, self, self.codec, self.identity)
        self._meter = Meter(self.door.bounds)
        self.door.enter(outlet, self.caller.address, self.turn)
        self.outlet, self.session = outlet, outlet.session
        self.door.heart.add(outlet)
        self.session.send(Welcome(self.node.name, HEARTBEAT))

    def on_message(self, frame: str | bytes) -> None:
        try:
            request = decode_request(frame, self.codec)
        except RealtimeError as error:
            if self._within_rates():
                self._fail(error.about if isinstance(error, ProtocolError) else None, error)
            return
        if not self._within_rates(request):
            return
        match request:
            case Subscribe():
                self._subscribe(request)
            case Unsubscribe():
                self._unsubscribe(request)
            case Auth():
                self._auth(request)
            case Ping():
                self.session.send(Pong())

    def on_close(self) -> None:
        if self.outlet is not None:
            self.door.heart.remove(self.outlet)
            self.door.leave(self.outlet)
            self.outlet = None
            for joining in list(self._joining.values()):
                joining.cancel()
            if self._authenticating is not None:
                self._authenticating.cancel()

    def on_ping(self, _: bytes) -> None:
        self._within_rates()

    def on_pong(self, _: bytes) -> None:
        if self.outlet is not None:
            self.outlet.answered = True
            self._within_rates()

    def _within_rates(self, request: Request | None = None) -> bool:
        """Whether what came may be looked at; else it is refused, and who does not mind that is shown out."""
        if self.outlet is None or self.session.closed:
            return False
        try:
            self._meter.take(self.identity.user, subscribe=isinstance(request, Subscribe))
        except Flooding as error:
            self.outlet.refuse(error)
        except TooMany as error:
            self._fail(request.id if isinstance(request, Subscribe | Unsubscribe) else None, error)
        else:
            return True
        return False

    # requests -------------------------------------------------------------------------------------------------------

    def _subscribe(self, request: Subscribe) -> None:
        if request.id in self._joining:
            self._fail(request.id, ProtocolError(f"subscription id {request.id!r} is in use"))
            return
        if len(self._joining) >= (most := self.door.bounds.limits.subscriptions):
            self._fail(request.id, TooMany(f"more than {most} subscriptions on one connection"))
            return
        self._joining[request.id] = self.door.joins.start(self._join(request), f"subscribe {request.channel}")

    def _auth(self, request: Auth) -> None:
        if self._authenticating is not None:
            self._fail(None, ProtocolError("the last auth is not answered yet"))
            return
        self._authenticating = self.door.joins.start(self._authenticate(request.token), "auth")

    async def _authenticate(self, token: str) -> None:
        try:
            turn = self.door.turn
            before, identity = self.identity, await self.door.gate.who(Shown(bearer=token[:LONGEST]))
            if before.known and before.user != identity.user:
                raise Forbidden("the token is another user's", hint="open another connection for them")
            if not before.known:
                self.door.bounds.check_share(Caller(identity.user, ""))
            self.identity = identity
            if self.outlet is not None:
                self.outlet.admit(identity)
                self.door.recheck(identity, turn)
            self.session.send(Authenticated(identity.user, identity.expires))
        except RealtimeError as error:
            self._fail(None, error)
        except Exception:
            log.exception("auth")
            self._fail(None, RealtimeError("our mistake: it is in the log"))
        finally:
            self._authenticating = None

    async def _join(self, request: Subscribe) -> None:
        try:
            if self._authenticating is not None:  # it was sent before
                await asyncio.wait([self._authenticating])
            if self.outlet is not None:
                await self.door.subscribe(self.outlet, request)
        except RealtimeError as error:
            self._fail(request.id, error)
        except Exception:
            log.exception("subscribe to %s", request.channel)
            self._fail(request.id, RealtimeError("our mistake: it is in the log"))
        finally:
            if self._joining.get(request.id) is asyncio.current_task():  # not one that took its id since
                del self._joining[request.id]

    def _unsubscribe(self, request: Unsubscribe) -> None:
        """Also of one that is not answered yet; of one that does not exist it is no mistake: it is gone."""
        if (joining := self._joining.pop(request.id, None)) is not None:
            joining.cancel()
        if (subscription := self.session.subscriptions.get(request.id)) is not None:
            self.node.unsubscribe(subscription)
        self.session.send(Unsubscribed(request.id))

    def _fail(self, id_: int | str | None, error: RealtimeError) -> None:
        self.session.send(Failure(id_, error.code, str(error), error.hint or ""))
