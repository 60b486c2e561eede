"""Accounts, their sign-ins and their tokens: the one object to ask.

All of it is in PostgreSQL, so that what one node ends is ended on each. Who asks with the same secret again is answered
from memory, for as long as this node hears what changes; a change is heard within a second (`watch`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from ..errors import Refused, StoreDown, Unauthorized, Unavailable
from ..rights import Identity
from ..stores.pgpool import Pool
from ..tasks import Tasks
from . import schema, secret, sign_ins, tokens, users
from .fields import email_of, name_of, roles_of, scopes_of
from .known import Known
from .passwords import Passwords, check_password
from .tokens import Token
from .tries import Tries
from .users import Account
from .watch import Watch

if TYPE_CHECKING:
    from ..stores.pgpool import Connection

__all__ = ["Account", "Accounts", "Token"]

WRITE_USED: Final = 5.0  # seconds between two writes of which tokens have been used

Find = Callable[["Connection", bytes], Awaitable[Identity | None]]


class Accounts:
    """`changed` is called with the id of a user of whom something has changed, with None when it may be anybody: after
    each connection to PostgreSQL. Without it nothing is watched and nothing remembered: for a command that ends soon.

    `user` is an id or an e-mail. Every call raises StoreDown where PostgreSQL does not answer, and what names a user
    raises NotFound.
    """

    def __init__(self, url: str, changed: Callable[[str | None], None] | None = None) -> None:
        self._pool = Pool(url, "the store of accounts")
        self._changed = changed
        self._watch = Watch(url, self._told, self._cut_off)
        self._known = Known()
        self._tries = Tries()
        self._passwords = Passwords()
        self._tasks = Tasks()
        self._used: set[str] = set()  # ids of tokens
        self._ready = False

    async def open(self) -> None:
        await self._pool.open()
        if self._changed is not None:
            self._watch.open()
            self._tasks.every(WRITE_USED, self._write_used, "use of tokens")

    async def close(self) -> None:
        await self._tasks.close()
        await self._watch.close()
        self._passwords.close()
        await self._pool.close()

    async def add(self, email: str, name: str, password: str | None, roles: Iterable[str]) -> Account:
        """Raises Duplicate or Refused. Without a password: a link signs in (`link`)."""
        email, name, roles = email_of(email), name_of(name), roles_of(roles)
        hashed = await self._hashed(password)
        async with self._connection() as connection:
            return await users.add(connection, email, name, hashed, roles)

    async def get(self, user: str) -> Account:
        async with self._connection() as connection:
            return await users.get(connection, user)

    async def all(self) -> list[Account]:
        async with self._connection() as connection:
            return await users.everybody(connection)

    async def change(
        self,
        user: str,
        *,
        name: str | None = None,
        password: str | None = None,
        roles: Iterable[str] | None = None,
        disabled: bool | None = None,
    ) -> Account:
        """What is None stays. A new password, or disabling, ends all sign-ins; disabling all tokens, too."""
        name = None if name is None else name_of(name)
        roles = None if roles is None else roles_of(roles)
        hashed = await self._hashed(password)
        async with self._changing(user) as (connection, id_):
            return await users.change(connection, id_, name=name, password=hashed, roles=roles, disabled=disabled)

    async def remove(self, user: str) -> None:
        async with self._changing(user) as (connection, id_):
            await users.remove(connection, id_)

    async def sign_in(self, email: str, password: str, address: str) -> tuple[str, Identity]:
        """The secret for the cookie. Raises Unauthorized, TooMany, and Unavailable where too many sign in at once."""
        wrong = Unauthorized("wrong e-mail or password", hint="whoever keeps the accounts can make a link to sign in")
        try:
            email = email_of(email)
        except Refused:
            raise wrong from None
        self._tries.take(email, address, time.monotonic())
        async with self._connection() as connection:
            found = await users.password_of(connection, email)
        # No connection is held meanwhile.
        user, hashed = found or ("", None)
        if not await self._passwords.verify(hashed, password) or hashed is None:
            raise wrong
        self._tries.forget(email, address)
        async with self._connection() as connection:
            begun = await sign_ins.begin(connection, user, hashed)
        if self._passwords.outdated(hashed):
            await self._rehash(user, hashed, password)
        return begun

    async def sign_out(self, given: str) -> None:
        digest = secret.digest(given)
        async with self._connection() as connection:
            await sign_ins.end(connection, digest)
        self._known.forget(digest)

    async def link(self, user: str) -> str:
        """The secret of a link that signs in once, within 15 minutes; an earlier one is void. Raises Refused."""
        async with self._connection() as connection:
            return await sign_ins.link(connection, (await users.get(connection, user)).id)

    async def linked(self, link: str) -> str:
        """The e-mail of whom it is for, without using it. Raises Unauthorized."""
        async with self._connection() as connection:
            return await sign_ins.linked(connection, secret.digest(link))

    async def redeem(self, link: str) -> tuple[str, Identity]:
        """As `sign_in`. Raises Unauthorized."""
        async with self._connection() as connection, connection.transaction():
            return await sign_ins.redeem(connection, secret.digest(link))

    async def issue(self, user: str, name: str, scopes: Iterable[str], expires: float | None) -> tuple[Token, str]:
        """A token and its secret, which is not to be had again. `expires`: seconds since 1970. Raises Refused."""
        name, scopes = name_of(name), scopes_of(scopes)
        if not name:
            raise Refused("a token has a name, to know it by")
        if expires is not None and not expires > time.time():
            raise Refused(f"a token does not expire in the past (got {expires:g})")
        async with self._connection() as connection:
            return await tokens.issue(connection, (await users.get(connection, user)).id, name, scopes, expires)

    async def tokens(self, user: str) -> list[Token]:
        async with self._connection() as connection:
            return await tokens.of_user(connection, (await users.get(connection, user)).id)

    async def revoke(self, user: str, token: str) -> None:
        """By the token's id. Raises NotFound."""
        async with self._changing(user) as (connection, id_):
            await tokens.revoke(connection, id_, token)

    async def signed_in(self, given: str) -> Identity:
        """By the secret of a sign-in. Raises Unauthorized."""
        if len(given) != secret.LENGTH:
            raise Unauthorized("this sign-in is none of ours")
        return await self._who(given, sign_ins.by_secret, "this sign-in has ended")

    async def bearer(self, given: str) -> Identity:
        """By the secret of a token. Raises Unauthorized."""
        if not given.startswith(secret.TOKEN) or len(given) != len(secret.TOKEN) + secret.LENGTH:
            raise Unauthorized("this token is none of ours")
        identity = await self._who(given, tokens.by_secret, "this token has expired, or was revoked")
        self._used.add(identity.id)
        return identity

    async def still(self, identity: Identity) -> Identity | None:
        """As it is now; None: ended. One that we have not given out is what it was."""
        if identity.proof not in ("sign-in", "token"):
            return identity
        async with self._connection() as connection:
            find = sign_ins.by_id if identity.proof == "sign-in" else tokens.by_id
            return await find(connection, identity.id)

    async def cookie_secrets(self) -> tuple[str, ...]:
        """To sign cookies with, the newest last; made by the first node that asks."""
        async with self._connection() as connection:
            await connection.execute(
                "INSERT INTO _realtime.cookie_secrets VALUES (1, $1) ON CONFLICT DO NOTHING", secret.new()
            )
            rows = await connection.fetch("SELECT secret FROM _realtime.cookie_secrets ORDER BY id")
        return tuple(row["secret"] for row in rows)

    async def _who(self, given: str, find: Find, ended: str) -> Identity:
        digest, turn = secret.digest(given), self._known.turn
        identity = self._known.get(digest) if self._watch.live else None
        if identity is None:
            async with self._connection() as connection:
                identity = await find(connection, digest)
            if identity is not None:
                self._known.keep(digest, identity, turn)
        if identity is None or (identity.expires is not None and identity.expires <= time.time()):
            raise Unauthorized(ended)
        return identity

    async def _hashed(self, password: str | None) -> str | None:
        if password is None:
            return None
        check_password(password)
        return await self._passwords.hash(password)

    async def _rehash(self, user: str, old: str, password: str) -> None:
        """With today's numbers; if not now, then at the next sign-in."""
        with suppress(Unavailable):
            new = await self._passwords.hash(password)
            async with self._connection() as connection:
                await users.rehash(connection, user, old, new)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection, None]:
        async with self._pool.connection() as connection:
            if not self._ready:
                await schema.ensure(connection)
                self._ready = True
            yield connection

    @asynccontextmanager
    async def _changing(self, user: str) -> AsyncGenerator[tuple[Connection, str], None]:
        """A connection and the user's id; afterwards this node knows nothing of the user, before anybody is told."""
        async with self._connection() as connection:
            id_ = (await users.get(connection, user)).id
            yield connection, id_
        self._known.drop(id_)

    async def _write_used(self) -> None:
        if not self._used:
            return
        used, self._used = self._used, set()
        try:
            async with self._connection() as connection:
                await tokens.write_used(connection, used)
        except StoreDown:
            self._used |= used

    def _told(self, user: str | None) -> None:
        self._known.drop(user)
        if self._changed is not None:
            self._changed(user)

    def _cut_off(self) -> None:
        self._known.drop(None)
