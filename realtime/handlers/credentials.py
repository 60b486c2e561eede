"""What a request shows of who sends it: a token, a ticket, or the cookie of a browser that is signed in.

A token in the header comes first, and then no cookie counts, so that a page of another site cannot add one's rights to
the other's. Tickets are for what cannot send headers, EventSource and a browser's WebSocket, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tornado.web import create_signed_value, decode_signed_value

from ..auth.gate import Shown
from ..auth.jwts import LONGEST
from ..auth.sign_ins import SIGN_IN as LASTS
from ..errors import Forbidden, StoreDown, Unauthorized

if TYPE_CHECKING:
    from .base import Handler

SIGN_IN = "realtime_sign_in"
DAYS = LASTS / 86_400  # that a cookie is good for


def shown(handler: Handler, *, ticket: bool = False) -> Shown:
    """Raises Unauthorized for what is no credential at all."""
    header = handler.request.headers.get("Authorization")
    if header is not None:
        kind, _, token = header.partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token or len(token) > LONGEST:
            raise Unauthorized("an Authorization header that has no bearer token")
        return Shown(bearer=token)
    if ticket and (text := handler.get_query_argument("ticket", "")):
        return Shown(ticket=text)
    return Shown(sign_in=_sign_in(handler))


def remember(handler: Handler, secret: str) -> None:
    """In the browser, that it is signed in. Raises StoreDown."""
    if handler.door.guard is None or handler.door.guard.keys is None:
        raise StoreDown("the keys that cookies are signed with are not known yet")
    secrets, version = handler.door.guard.keys
    signed = create_signed_value(secrets, _name(handler), secret, key_version=version)
    handler.set_cookie(_name(handler), signed.decode(), max_age=LASTS, **_attributes(handler))


def forget(handler: Handler) -> None:
    handler.clear_cookie(_name(handler), **_attributes(handler))


def _attributes(handler: Handler) -> dict[str, Any]:
    return {"path": "/", "httponly": True, "samesite": "Lax", "secure": is_secure(handler)}


def is_secure(handler: Handler) -> bool:
    """Whether the browser spoke TLS."""
    return handler.request.protocol == "https"


def check_origin_is_told(handler: Handler) -> None:
    """A browser says where a page is from when it opens a WebSocket; whoever shows its cookie without that is none."""
    headers = handler.request.headers
    if "Origin" not in headers and "Sec-Fetch-Site" not in headers:
        raise Forbidden("a cookie without an Origin", hint="what is no browser sends a token")


def _sign_in(handler: Handler) -> str | None:
    keys = None if handler.door.guard is None else handler.door.guard.keys
    if keys is None:
        return None
    secrets, _ = keys
    given = handler.get_cookie(_name(handler))
    # Tornado's older format has no versions of keys, and fails on what is in none of its formats.
    value = decode_signed_value(secrets, _name(handler), given, max_age_days=DAYS, min_version=2)
    return value.decode() if value else None


def _name(handler: Handler) -> str:
    """`__Host-`: browsers take it over TLS alone, and from this very host."""
    return f"__Host-{SIGN_IN}" if is_secure(handler) else SIGN_IN
