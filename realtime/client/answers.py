"""What comes back for a request; errors as the exceptions of `realtime.errors`, by code, or else by status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from .. import errors
from ..errors import Forbidden, ProtocolError, RealtimeError, TooMany, Unauthorized, Unavailable
from .messages import plain

# `Flooding` is a TooMany on the wire: a class counts that has a code of its own.
_CODES: dict[str, type[RealtimeError]] = {
    each.code: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, RealtimeError) and "code" in vars(each)
}
_STATUSES = {400: ProtocolError, 401: Unauthorized, 403: Forbidden, 426: ProtocolError, 429: TooMany}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # by name, in small letters
    body: bytes

    @property
    def etag(self) -> str | None:
        tag = self.headers.get("etag")
        return None if tag is None else tag.strip('"')


class Conflict(errors.Conflict):
    """The condition of a write did not hold. `current`: the value as it is now, None where there is none."""

    current: Any
    etag: str | None = None  # of it


def named(code: str, message: str, hint: str | None, status: int = 500) -> RealtimeError:
    """The exception for a code; for one that is not known here, what its status says."""
    if code == Conflict.code:
        return Conflict(message, current=None)
    by_status = _STATUSES.get(status, Unavailable if status > 500 else RealtimeError)
    return _CODES.get(code, by_status)(message, hint=hint)


def error_of(answer: Answer) -> RealtimeError:
    """What went wrong, also where a proxy says so in words of its own."""
    try:
        body = plain(answer.body)
        said = body["error"]
        error = named(said["code"], said["message"], said.get("hint"), answer.status)
    except (ValueError, LookupError, TypeError, AttributeError, msgspec.DecodeError):
        return _timed(named("", f"answered with status {answer.status}", None, answer.status), answer)
    if isinstance(error, Conflict):
        error.current, error.etag = body.get("current"), answer.etag
    return _timed(error, answer)


def _timed(error: RealtimeError, answer: Answer) -> RealtimeError:
    after = answer.headers.get("retry-after", "")
    if after.isdigit():
        error.retry_after = int(after)
    return error
