"""What all handlers share: their door to the rest, query arguments, errors as JSON.

Errors become answers here and nowhere else, so that every door says the same thing in the same words.
"""

from __future__ import annotations

import logging
from http.client import responses
from typing import Any

import msgspec
from msgspec import Raw
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from ..errors import Conflict, NotFound, ProtocolError, RealtimeError, Unauthorized, Unsupported
from ..protocol import etag
from ..rights import DENIED, NOBODY, Identity, Rights
from .bounds import Caller
from .credentials import shown
from .door import Door

log = logging.getLogger("realtime.handlers")

MERGE_PATCH = "application/merge-patch+json"


# What a browser is told with every answer: take it for what it says it is, run none of it, show it in no frame, tell
# nobody where it came from, share no window with another site.
SECURE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Secure(RequestHandler):
    """What holds for pages, scripts and answers alike."""

    def set_default_headers(self) -> None:
        for name, value in SECURE.items():
            self.set_header(name, value)
        self.clear_header("Server")

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """What a client is told needs no traceback; what it did not wait for, no line at all.

        Tornado's own line would have the query and the headers in it, and with them tickets and tokens.
        """
        if not isinstance(value, (RealtimeError, HTTPError, StreamClosedError)):
            log.error("%s %s", self.request.method, self.request.path, exc_info=(typ, value, tb))


class Handler(Secure):
    """`door` is all that a handler knows of the rest."""

    identity: Identity = NOBODY
    rights: Rights = DENIED  # until it is known who asks
    turn = 0  # of the reviews, when that was asked

    def initialize(self, door: Door) -> None:
        self.door, self.node = door, door.node

    async def prepare(self) -> None:
        """Who asks. Raises Unauthorized, Unavailable."""
        await self.admit()

    async def admit(self, *, ticket: bool = False) -> None:
        self.turn = self.door.turn
        self.identity = await self.door.gate.who(shown(self, ticket=ticket))
        self.rights = self.door.gate.rights(self.identity)

    @property
    def caller(self) -> Caller:
        """Whom the limits count."""
        return Caller(self.identity.user, self.request.remote_ip or "")

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def get_current_user(self) -> Identity | None:
        """For Tornado's `authenticated`, which sends those who have none to sign in."""
        return None if self.door.gate.asks and not self.identity.known else self.identity

    def answer(self, body: object, status: int = 200) -> None:
        """JSON, whatever msgspec can encode."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(body) + b"\n")

    async def head(self, *path: str) -> None:
        """As GET; Tornado leaves the body out."""
        answering = self.get(*path)
        if answering is not None:
            await answering

    def argument(self, name: str) -> str | None:
        """A query argument to the letter: Tornado's own getter takes off blanks and replaces control characters."""
        values = self.request.query_arguments.get(name)
        try:
            return values[-1].decode() if values else None
        except UnicodeDecodeError:
            raise ProtocolError(f"{name} is not UTF-8") from None

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A query argument within its bounds. Raises ProtocolError."""
        text = self.get_query_argument(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            raise ProtocolError(f"{name} is not a number: {text[:40]!r}") from None
        if not least <= value <= most:
            raise ProtocolError(f"{name} must be {least:g} to {most:g}, not {text[:40]}")
        return value

    def tag(self, value: Raw | None) -> None:
        if value is not None:
            self.set_header("ETag", f'"{etag(bytes(value))}"')

    # errors ---------------------------------------------------------------------------------------------------------

    def write_error(self, status_code: int, **given: Any) -> None:
        error = given["exc_info"][1] if "exc_info" in given else None
        if isinstance(error, RealtimeError):
            self._say(error)
        elif status_code == 405:
            self._say_method()
        else:
            message = (error.log_message if isinstance(error, HTTPError) else None) or responses.get(status_code, "")
            code = {400: "bad_request", 404: "not_found", 403: "forbidden"}.get(status_code, "internal")
            self.answer({"error": {"code": code, "message": message.lower()}}, status_code)

    def _say(self, error: RealtimeError) -> None:
        body: dict[str, object] = {"error": error.body()}
        if isinstance(error, Conflict):
            current = None if error.current is None else Raw(error.current)
            body["current"] = current
            self.tag(current)
        if error.retry_after is not None:
            self.set_header("Retry-After", str(error.retry_after))
        if isinstance(error, Unauthorized):
            self.set_header("WWW-Authenticate", 'Bearer realm="realtime"')
        if isinstance(error, Unsupported):
            self.set_header("Accept-Patch", MERGE_PATCH)
        if error.status == 405:
            self.set_header("Allow", "GET, HEAD")
        self.answer(body, error.status)

    def _say_method(self) -> None:
        allowed = [verb for verb in self.SUPPORTED_METHODS if self._has(verb)]
        self.set_header("Allow", ", ".join(allowed))
        method = self.request.method
        self.answer(
            {
                "error": {
                    "code": "method_not_allowed",
                    "message": f"no {method} here",
                    "hint": f"allowed: {', '.join(allowed)}",
                }
            },
            405,
        )

    def _has(self, verb: str) -> bool:
        mine = getattr(type(self), verb.lower(), None)
        return mine is not None and mine is not getattr(RequestHandler, verb.lower())

    def send_error(self, status_code: int = 500, **given: Any) -> None:
        error = given["exc_info"][1] if "exc_info" in given else None
        super().send_error(error.status if isinstance(error, RealtimeError) else status_code, **given)


class Missing(Handler):
    """Every path that no other handler has."""

    async def prepare(self) -> None:
        raise NotFound(f"nothing at {self.request.path[:200]}", hint="docs/protocol.md lists what there is")
