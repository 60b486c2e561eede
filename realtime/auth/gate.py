"""The one object that doors ask who somebody is, and what they may.

Closed, it believes a token, a signed-in browser's cookie or a ticket; what is shown and does not hold is refused, even
where nobody would have needed it. Open, it asks nobody: that is for a service that only its own machine can reach.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..errors import Unauthorized
from ..rights import ANONYMOUS, EVERYTHING, NOBODY, Identity, Rights, Rules
from .accounts import Accounts
from .jwts import Jwts
from .secret import TOKEN
from .tickets import Tickets


class Shown(NamedTuple):
    """What somebody proves with who they are; the first of these counts."""

    bearer: str | None = None  # a token
    ticket: str | None = None
    sign_in: str | None = None  # what is in a browser's cookie


class Gate(Protocol):
    asks: bool  # who somebody is

    @property
    def anonymous(self) -> bool:
        """There is something for those who do not say."""

    async def who(self, shown: Shown) -> Identity:
        """Raises Unauthorized, Unavailable."""

    async def ticket(self, identity: Identity) -> str:
        """Good once, for seconds."""

    async def still(self, identity: Identity) -> Identity | None:
        """As it is now; None: it does not hold any more. Raises Unavailable."""

    def rights(self, identity: Identity) -> Rights:
        """What it may."""


class Open:
    asks, anonymous = False, True

    async def who(self, shown: Shown) -> Identity:
        return NOBODY

    async def ticket(self, identity: Identity) -> str:
        return "open"

    async def still(self, identity: Identity) -> Identity | None:
        return identity

    def rights(self, identity: Identity) -> Rights:
        return EVERYTHING


class Closed:
    """`rules` may be replaced; whoever does so has those who are there looked at again."""

    asks = True

    def __init__(self, rules: Rules, accounts: Accounts, tickets: Tickets, jwts: Jwts | None = None) -> None:
        self.rules = rules
        self._accounts, self._tickets, self._jwts = accounts, tickets, jwts

    @property
    def anonymous(self) -> bool:
        return any(ANONYMOUS in rule.roles for rule in self.rules.rule)

    async def who(self, shown: Shown) -> Identity:
        if shown.bearer is not None:
            return await self._by_token(shown.bearer)
        if shown.ticket is not None:
            return await self._by_ticket(shown.ticket)
        if shown.sign_in is not None:
            try:
                return await self._accounts.signed_in(shown.sign_in)
            except Unauthorized:
                return NOBODY  # browsers show cookies unasked, and for longer than they hold
        return NOBODY

    async def ticket(self, identity: Identity) -> str:
        return await self._tickets.issue(identity)

    async def still(self, identity: Identity) -> Identity | None:
        if identity.proof in ("sign-in", "token"):
            return await self._accounts.still(identity)
        return identity  # an outside issuer's word holds until it expires

    def rights(self, identity: Identity) -> Rights:
        return Rights(self.rules, identity)

    async def _by_token(self, text: str) -> Identity:
        if text.startswith(TOKEN):
            return await self._accounts.bearer(text)
        if self._jwts is None:
            raise Unauthorized("not a token of ours")
        return await self._jwts.identity(text)

    async def _by_ticket(self, text: str) -> Identity:
        """As it is by now: it may have been revoked since the ticket was made."""
        identity = await self.still(await self._tickets.redeem(text))
        if identity is None:
            raise Unauthorized("whoever got this ticket is not signed in any more")
        return identity
