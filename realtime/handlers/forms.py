"""Pages with forms, which work without a script: who is let in to them, what they send, how they say what went wrong.

A form is refused from another site's page (`cross_origin_protection`), bounded before it is read, and what it sent is
put back into the page where it was refused, but for what nobody should see.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, quote

from tornado.web import stream_request_body

from ..auth.accounts import Accounts
from ..errors import Forbidden, ProtocolError, RealtimeError, TooLarge, Unsupported
from .door import Door
from .pages import Page
from .pieces import Pieces

MAX_FORM = 16 << 10  # bytes
MAX_FIELDS = 16
MAX_FIELD = 1024  # characters
FORM = "application/x-www-form-urlencoded"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# One `/` at the start: two, or one and a backslash, lead to another host; browsers pass over some control characters.
_LOCAL = re.compile(r"/(?!/)[!-\[\]-~]{0,2000}")


def local(path: str) -> str:
    """Where to go on: only ever to this service."""
    return path if _LOCAL.fullmatch(path) else "/"


@stream_request_body
class FormHandler(Pieces, Page):
    """There are none where nobody is asked who they are."""

    def initialize(self, door: Door, *, accounts: Accounts) -> None:  # type: ignore[override]  # as its routes say
        super().initialize(door)
        self.accounts = accounts
        self.most = MAX_FORM
        self._fields: dict[str, list[str]] | None = None

    async def prepare(self) -> None:
        await super().prepare()
        if self.request.method == "POST":
            self.door.bounds.write(self.caller)

    def field(self, name: str) -> str:
        """What was sent, empty where nothing was. Raises ProtocolError, TooLarge or Unsupported."""
        if self._fields is None:
            self._fields = self._read()
        text = self._fields.get(name, [""])[-1]
        if len(text) > MAX_FIELD or _CONTROL.search(text):
            raise ProtocolError(f"{name} has control characters, or more than {MAX_FIELD} of any")
        return text

    def words(self, name: str) -> list[str]:
        """With commas or blanks between them."""
        return self.field(name).replace(",", " ").split()

    def kept(self, name: str) -> str:
        """What was sent, to be put back into the form."""
        return (self._fields or {}).get(name, [""])[-1]

    def get_template_namespace(self) -> dict[str, Any]:
        return {**super().get_template_namespace(), "kept": self.kept}

    def refuse(self, error: RealtimeError) -> None:
        """For the page that is then shown, with the error in it."""
        self.set_status(error.status)
        if error.retry_after is not None:
            self.set_header("Retry-After", str(error.retry_after))

    def _read(self) -> dict[str, list[str]]:
        if self.length > MAX_FORM:
            raise TooLarge(f"a form of {self.length} bytes", hint=f"a form has at most {MAX_FORM}")
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != FORM:
            raise Unsupported("not a form", hint=f"Content-Type: {FORM}")
        try:
            return parse_qs(
                self.body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
            )
        except ValueError:
            raise ProtocolError("not a form, or not in UTF-8") from None


class OwnHandler(FormHandler):
    """For who is signed in, and nobody else: a token would make itself another one that may more."""

    async def prepare(self) -> None:
        await super().prepare()
        if not self.identity.known:
            self.redirect(f"/sign-in?next={quote(self.request.path)}", status=303)
        elif self.identity.proof != "sign-in":
            raise Forbidden("this page is for who has signed in with a password", hint="a token does not open it")
