"""Every failure that has a name: whose fault it is, its code on the wire, its HTTP status, its WebSocket close code.

Handlers turn these into answers in one place (`handlers.base`), so that an error reads the same over REST, WebSocket,
SSE and long-poll: `{"error": {"code", "message", "hint"}}`. Anything else that reaches a handler is our own mistake.
"""

from __future__ import annotations

from typing import ClassVar


class RealtimeError(Exception):
    """A failure that a client is told about. `message` shows the offending value, `hint` says what to do next."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    close: ClassVar[int | None] = None  # the WebSocket close code, where the connection cannot go on
    hint: str | None = None
    retry_after: int | None = None  # seconds, where it is no use to come back before

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def body(self) -> dict[str, object]:
        """The wire form, without its envelope."""
        return {"code": self.code, "message": str(self), **({"hint": self.hint} if self.hint else {})}


class ProtocolError(RealtimeError):
    """The peer said something that the protocol does not have: not JSON, an unknown type, an id used twice.

    `about`: the id of the message that is meant, where it could be read.
    """

    code, status = "bad_request", 400

    def __init__(self, message: str, *, hint: str | None = None, about: object = None) -> None:
        super().__init__(message, hint=hint)
        self.about = about if isinstance(about, (int, str)) and not isinstance(about, bool) else None


class BadCursor(ProtocolError):
    """The cursor is not one of ours. (One that is merely too old is no error: it is answered with the items.)"""

    code = "bad_cursor"
    hint = "send the cursor exactly as it was received, or none for a fresh snapshot"


class Unauthorized(RealtimeError):
    """Nobody said who they are, or what they said it with does not hold (any more)."""

    code, status, close = "unauthorized", 401, 4401
    hint = "sign in, or send a token: `Authorization: Bearer …`"


class Forbidden(RealtimeError):
    """We know who asks, and they may not; whether what they asked for exists is not told."""

    code, status = "forbidden", 403
    hint = "ask whoever keeps the rules for the right"


class UnknownChannel(RealtimeError):
    """There is no such store, or the store has no such collection."""

    code, status = "unknown_channel", 404
    hint = "GET /v1/stores lists what there is"


class NotFound(RealtimeError):
    """The collection has no such key."""

    code, status = "not_found", 404


class ReadOnly(RealtimeError):
    """The store takes no writes."""

    code, status = "read_only", 405


class Conflict(RealtimeError):
    """If-Match or If-None-Match did not hold. `current` is the value as it is now (JSON), None where there is none."""

    code, status = "conflict", 412

    def __init__(self, message: str, *, current: bytes | None) -> None:
        super().__init__(message, hint="read the current value, merge, and write again with its ETag")
        self.current = current


class Duplicate(RealtimeError):
    """The store refused the value because another item already holds it (a unique constraint)."""

    code, status = "duplicate", 409


class WrongHost(RealtimeError):
    """Asked by a name that nobody has given this service."""

    code, status = "wrong_host", 421
    hint = "call it by its address, or name it in the setting `hosts`"


class Refused(RealtimeError):
    """The store refused the value; the message has the store's own words."""

    code, status = "refused", 422


class TooLarge(RealtimeError):
    """A body, a frame or a snapshot beyond its limit."""

    code, status, close = "too_large", 413, 1009


class Unsupported(RealtimeError):
    """A body of a kind that we would misread."""

    code, status = "unsupported", 415


class TooMany(RealtimeError):
    """More of something than one connection, user or address may have."""

    code, status = "too_many", 429
    retry_after: int = 2


class Flooding(TooMany):
    """It goes on sending too much although it was told."""

    close = 4429


class TooSlow(RealtimeError):
    """The client does not take what it asked for: come back later and resume from the cursor."""

    code, status, close = "too_slow", 503, 4008


class Unavailable(RealtimeError):
    """Something behind us does not answer; the same request may succeed later."""

    code, status = "unavailable", 503
    retry_after: int = 2


class StoreDown(Unavailable):
    """The store does not answer."""

    code = "store_down"


class BrokerDown(Unavailable):
    """The broker does not answer: reads and writes of other stores go on, new subscriptions cannot start."""

    code = "broker_down"


class Full(Unavailable):
    """As many are here as may be, of this user, of this address or of all. `retry_after` is not the same for all."""

    code = "full"


class Draining(Unavailable):
    """This node is about to stop; another one, or its successor, will answer."""

    code, close = "draining", 1012
    retry_after = 1


class CursorLost(Exception):
    """The history after a cursor is gone. Never an error for a client: it is shown the items, and `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConfigError(Exception):
    """The configuration cannot be used; the process ends with status 78 and this text."""


class StartError(Exception):
    """Something that the service needs at its start cannot be had (a port, an embedded server, a data directory)."""
