"""Signing in, by password or by a link that is good once, and signing out on every node.

A link's page changes nothing by being looked at, since mail programs look at links before their readers do.
"""

from __future__ import annotations

from ..auth.passwords import check_password
from ..errors import RealtimeError, Refused, TooMany, Unauthorized, Unavailable
from .credentials import forget, remember, shown
from .forms import FormHandler, local


class SignInHandler(FormHandler):
    """/sign-in"""

    _link = ""  # what can be tried again

    async def get(self) -> None:
        self._link, next_ = self.get_query_argument("link", ""), self.get_query_argument("next", "/")
        if self._link:
            await self._show(next_)
        elif self.identity.proof == "sign-in":
            self.redirect(local(next_))
        else:
            await self._show(next_)

    async def post(self) -> None:
        self._link, next_ = self.field("link"), self.field("next")
        try:
            remember(self, await (self._by_link() if self._link else self._by_password()))
        except (Refused, TooMany, Unauthorized, Unavailable) as error:
            await self._show(next_, error)
        else:
            self.redirect(local(next_), status=303)

    async def _by_password(self) -> str:
        return await self._signed_in(self.field("email"), self.field("password"))

    async def _by_link(self) -> str:
        """A new password ends the sign-in that the link was good for, as all others."""
        password = self.field("password")
        check_password(password)
        secret, identity = await self.accounts.redeem(self._link)
        self._link = ""
        try:
            account = await self.accounts.change(identity.user, password=password)
        except Unavailable:
            self._link = await self.accounts.link(identity.user)  # the first one is used
            await self.accounts.sign_out(secret)
            raise
        return await self._signed_in(account.email, password)

    async def _signed_in(self, email: str, password: str) -> str:
        secret, _ = await self.accounts.sign_in(email, password, self.request.remote_ip or "")
        return secret

    async def _show(self, next_: str, error: RealtimeError | None = None) -> None:
        """With a link that is good: a password is to be chosen; otherwise that somebody signs in."""
        email = self.kept("email")
        if self._link:
            try:
                email = await self.accounts.linked(self._link)
            except Unauthorized as void:
                self._link, error = "", void
        if error is not None:
            self.refuse(error)
        self.render("sign_in.html", link=self._link, email=email, next=local(next_), error=error)


class SignOutHandler(FormHandler):
    """/sign-out"""

    async def post(self) -> None:
        secret = shown(self).sign_in
        if secret is not None:
            await self.accounts.sign_out(secret)
        forget(self)
        self.redirect("/sign-in", status=303)
