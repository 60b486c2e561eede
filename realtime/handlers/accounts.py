"""Accounts as pages: one's own, with its tokens; and, for admins, everybody's.

What was done is answered by a redirect, so that loading the page again does not do it again. What is shown once, a
token or a link, is in the answer itself and nowhere else.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import ClassVar

from ..auth.passwords import check_password
from ..errors import Duplicate, Forbidden, NotFound, ProtocolError, RealtimeError, Refused, TooMany, Unauthorized
from .credentials import remember
from .forms import OwnHandler

ADMIN = "admin"
DAY = 86_400
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "": "until revoked"}

# What a form may be told, where it is: anything else is a page of its own.
TOLD = (Duplicate, NotFound, ProtocolError, Refused, TooMany, Unauthorized)


def date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


class AccountHandler(OwnHandler):
    """/account"""

    DONE: ClassVar = {
        "name": "Your name is changed.",
        "password": "Your password is changed; everywhere else you are signed out.",
        "revoke": "The token is revoked.",
    }

    async def get(self) -> None:
        await self._show()

    async def post(self) -> None:
        action = self.field("do")
        try:
            match action:
                case "name":
                    await self.accounts.change(self.identity.user, name=self.field("name"))
                case "password":
                    await self._change_password()
                case "issue":
                    await self._issue()
                case "revoke":
                    await self.accounts.revoke(self.identity.user, self.field("token"))
                case _:
                    raise ProtocolError(f"nothing to do by this name: {action[:40]!r}")
        except TOLD as error:
            await self._show(error, action)
        if not self._finished:
            self.redirect(f"/account?done={action}", status=303)

    async def _change_password(self) -> None:
        """Whoever finds a browser signed in does not take the account with it: the password of now is asked for."""
        old, new = self.field("old"), self.field("password")
        check_password(new)
        address = self.request.remote_ip or ""
        email = (await self.accounts.get(self.identity.user)).email
        try:
            secret, _ = await self.accounts.sign_in(email, old, address)
        except Unauthorized:
            raise Refused("the current password is another one") from None
        await self.accounts.sign_out(secret)
        await self.accounts.change(self.identity.user, password=new)
        secret, _ = await self.accounts.sign_in(email, new, address)
        remember(self, secret)

    async def _issue(self) -> None:
        lifetime = self.field("lifetime")
        if lifetime not in LIFETIMES:
            raise ProtocolError(f"no lifetime of a token: {lifetime[:40]!r}")
        expires = time.time() + int(lifetime) * DAY if lifetime else None
        name, scopes = self.field("name"), self.words("scopes")
        _, secret = await self.accounts.issue(self.identity.user, name, scopes, expires)
        await self._show(secret=secret)

    async def _show(self, error: RealtimeError | None = None, failed: str = "", secret: str = "") -> None:
        """`failed`: what was to be done."""
        account = await self.accounts.get(self.identity.user)
        tokens = await self.accounts.tokens(self.identity.user)
        if error is not None:
            self.refuse(error)
        self.render(
            "account.html",
            account=account, tokens=tokens, error=error, failed=failed, secret=secret, lifetimes=LIFETIMES, date=date,
            done=self.DONE.get(self.get_query_argument("done", "")), admin=ADMIN in account.roles,
        )  # fmt: skip


class AccountsHandler(OwnHandler):
    """/accounts"""

    DONE: ClassVar = {
        "roles": "The roles are changed.",
        "disable": "The account is disabled: its sign-ins and its tokens have ended.",
        "enable": "The account is enabled; it needs a link, or its password.",
    }

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and ADMIN not in self.identity.roles:
            raise Forbidden(f"accounts are the business of the role {ADMIN!r}")

    async def get(self) -> None:
        await self._show()

    async def post(self) -> None:
        action, user = self.field("do"), self.field("user")
        try:
            match action:
                case "add":
                    email, name, roles = self.field("email"), self.field("name"), self.words("roles")
                    account = await self.accounts.add(email, name, None, roles)
                    await self._show(linked=account.email, link=await self.accounts.link(account.id))
                case "link":
                    account = await self.accounts.get(user)
                    await self._show(linked=account.email, link=await self.accounts.link(user))
                case "roles":
                    await self._change(user, roles=self.words("roles"))
                case "disable" | "enable":
                    await self._change(user, disabled=action == "disable")
                case _:
                    raise ProtocolError(f"nothing to do by this name: {action[:40]!r}")
        except TOLD as error:
            await self._show(error, action)
        if not self._finished:
            self.redirect(f"/accounts?done={action}", status=303)

    async def _change(self, user: str, *, roles: list[str] | None = None, disabled: bool | None = None) -> None:
        own = (await self.accounts.get(user)).id == self.identity.user
        if own and (disabled or (roles is not None and ADMIN not in roles)):
            raise Refused("you would lock yourself out", hint="another admin can do that")
        await self.accounts.change(user, roles=roles, disabled=disabled)

    async def _show(
        self, error: RealtimeError | None = None, failed: str = "", *, linked: str = "", link: str = ""
    ) -> None:
        """`linked`: whose link it is."""
        accounts = await self.accounts.all()
        if error is not None:
            self.refuse(error)
        address = f"{self.request.protocol}://{self.request.host}/sign-in?link={link}" if link else ""
        self.render(
            "accounts.html",
            accounts=accounts, error=error, failed=failed, linked=linked, link=address, date=date,
            done=self.DONE.get(self.get_query_argument("done", "")),
        )  # fmt: skip
