"""What this node lets in, and how fast: the limits of the configuration, with its clock and its counts.

Users are counted before addresses, which many may share. Where nobody is asked who they are, there is neither: the one
machine that reaches an open service is not to be held up by its own scripts. What one connection costs, and how many
of them a node bears, is bounded all the same.
"""

from __future__ import annotations

import asyncio
import math
from random import randrange
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import NamedTuple, Protocol

from tornado.httputil import HTTPServerRequest

from ..config import Config, Limits
from ..errors import Flooding, Full, RealtimeError, TooMany, Unsupported
from ..limits import FULL, Buckets, Rate
from ..metrics import Metrics
from ..rights import Identity
from ..session import Session
from .address import Proxies, counted

OWN_FILES = 256  # that a node keeps for its stores, logs and all that is no client's
ASIDE = 256  # connections beside those that last, for requests
PATIENCE, CALM = 5, 10.0  # who is refused five buckets full within ten seconds is shown out
JITTER = 5  # seconds over which those who were sent away come back

Name = tuple[str, str]  # ("user", …) or ("address", …)


class Guest(Protocol):
    """Somebody's connection that lasts."""

    transport: str
    identity: Identity
    session: Session


class Caller(NamedTuple):
    """`user`: empty where nobody is known."""

    user: str
    address: str

    @property
    def name(self) -> Name:
        return ("user", self.user) if self.user else ("address", counted(self.address))


class Bounds:
    def __init__(self, config: Config, metrics: Metrics, *, asks: bool) -> None:
        """`asks`: who somebody is."""
        self.limits: Limits = config.limits
        self.most = min(config.limits.connections, files() - OWN_FILES - ASIDE)
        self.most_sockets = files() - OWN_FILES
        self.messages, self.subscribes = Rate(self.limits.messages), Rate(self.limits.subscribes)
        self.refusals = Rate(self.limits.messages * PATIENCE * 4 / CALM, self.limits.messages * PATIENCE * 4)
        self._asks, self._metrics = asks, metrics
        self._proxies = Proxies(config.proxies)
        self._writes, self._user_messages = Buckets(Rate(self.limits.writes)), Buckets(Rate(self.limits.user_messages))
        self._open = self.websockets = 0
        self._names: dict[Guest, Name] = {}
        self._here: dict[Name, set[Guest]] = {}

    # requests -------------------------------------------------------------------------------------------------------

    def look(self, request: HTTPServerRequest) -> RealtimeError | None:
        """At a request before any handler does: who sent it, and why it is not to be answered."""
        self._proxies.unwrap(request)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return Unsupported("a packed body", hint="send it as it is, without Content-Encoding")
        return None

    def write(self, caller: Caller) -> None:
        """Raises TooMany."""
        now = _now()
        if self._asks and not self._writes.take(caller.name, now):
            self.count("writes")
            error = TooMany(f"more than {self.limits.writes:g} writes a second")
            error.retry_after = math.ceil(self._writes.wait(caller.name, now)) or 1
            raise error

    def count(self, limit: str) -> None:
        self._metrics.limited.labels(limit).inc()

    # conversations --------------------------------------------------------------------------------------------------

    def check(self, caller: Caller) -> None:
        """Whether there is room for one more. Raises Full."""
        if self._open >= self.most:
            raise self._full("connections", f"this node has {self.most} connections")
        self.check_share(caller)

    def check_share(self, caller: Caller) -> None:
        """Of a user or an address. Raises Full."""
        if not self._asks:
            return
        limit = "user_connections" if caller.user else "address_connections"
        most: int = getattr(self.limits, limit)
        if len(self._here.get(caller.name, ())) >= most:
            raise self._full(limit, f"{most} connections are open already" + ("" if caller.user else ": sign in"))

    def _full(self, limit: str, message: str) -> Full:
        self.count(limit)
        error = Full(message)
        error.retry_after = 1 + randrange(JITTER)  # noqa: S311  no secret
        return error

    def enter(self, guest: Guest, address: str) -> None:
        self._open += 1
        self.websockets += guest.transport == "websocket"
        if self._asks:
            self._name(guest, Caller(guest.identity.user, address).name)

    def known(self, guest: Guest) -> None:
        """One of those who are here has said who they are."""
        if guest in self._names and guest.identity.user:
            self._forget(guest)
            self._name(guest, ("user", guest.identity.user))

    def leave(self, guest: Guest) -> None:
        self._open -= 1
        self.websockets -= guest.transport == "websocket"
        self._forget(guest)

    def _name(self, guest: Guest, name: Name) -> None:
        self._names[guest] = name
        self._here.setdefault(name, set()).add(guest)

    def _forget(self, guest: Guest) -> None:
        if (name := self._names.pop(guest, None)) is not None:
            self._here[name].remove(guest)
            if not self._here[name]:
                del self._here[name]

    def subscribe(self, guest: Guest) -> None:
        """Whether its user may have one more subscription. Raises TooMany."""
        name = self._names.get(guest)
        if name is None or name[0] != "user":  # nobody's connections are few, and bounded each
            return
        if sum(len(each.session.subscriptions) for each in self._here[name]) >= self.limits.user_subscriptions:
            self.count("user_subscriptions")
            raise TooMany(f"you have {self.limits.user_subscriptions} subscriptions on all your connections")

    def say(self, user: str) -> bool:
        """Whether the user may send one more message."""
        return not self._asks or not user or self._user_messages.take(user, _now())


class Meter:
    """How fast one WebSocket speaks: each frame costs, whatever it is; a subscribe from a bucket of its own."""

    __slots__ = ("_bounds", "_messages", "_refusals", "_subscribes")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._messages = self._subscribes = self._refusals = FULL

    def take(self, user: str, *, subscribe: bool = False) -> None:
        """Raises TooMany; Flooding where that was said too often."""
        bounds, now = self._bounds, _now()
        full = bounds.subscribes.take(self._subscribes, now) if subscribe else bounds.messages.take(self._messages, now)
        if full is None:
            limit = "subscribes" if subscribe else "messages"
            raise self._refuse(limit, getattr(bounds.limits, limit), now)
        if subscribe:
            self._subscribes = full
        else:
            self._messages = full
        if not bounds.say(user):
            raise self._refuse("user_messages", bounds.limits.user_messages, now)

    def _refuse(self, limit: str, rate: float, now: float) -> TooMany:
        self._bounds.count(limit)
        what = f"more than {rate:g} {limit.removeprefix('user_')} a second"
        refusals = self._bounds.refusals.take(self._refusals, now)
        if refusals is None:
            return Flooding(what)
        self._refusals = refusals
        return TooMany(what, hint="wait, and send it again")


def files() -> int:
    """That this process may have open."""
    soft, _ = getrlimit(RLIMIT_NOFILE)
    return 1 << 20 if soft == RLIM_INFINITY else soft


def _now() -> float:
    return asyncio.get_running_loop().time()
