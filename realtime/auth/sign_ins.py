"""Sign-ins, and the links that make one without a password. Kept here, not in a cookie, so that ending one ends it on
every node at once; within a caller's connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import Refused, Unauthorized
from ..rights import Identity
from . import secret

if TYPE_CHECKING:
    import asyncpg

    from ..stores.pgpool import Connection

SIGN_IN: Final = 12 * 3600  # seconds that one lasts
LINK: Final = 900

# FOR SHARE: who changes the user's password at the same moment waits, and then ends this sign-in, too; or we wait, and
# then the password is not the one that was verified.
_BEGIN: Final = """
INSERT INTO _realtime.sign_ins (id, secret, user_id, expires)
SELECT $2, $3, id, now() + make_interval(secs => $4) FROM _realtime.users
WHERE id = $1 AND NOT disabled AND ($5::text IS NULL OR password = $5) FOR SHARE
RETURNING id
"""
_SWEEP: Final = """
DELETE FROM _realtime.sign_ins WHERE id IN (
    SELECT id FROM _realtime.sign_ins WHERE expires < now() LIMIT 100 FOR UPDATE SKIP LOCKED)
"""
_FIND: Final = """
SELECT s.id AS id, u.id AS user, u.roles, u.email, u.name, extract(epoch FROM s.expires)::float8 AS expires
FROM _realtime.sign_ins s JOIN _realtime.users u ON u.id = s.user_id
WHERE s.expires > now() AND NOT u.disabled AND
"""
_LINK: Final = """
INSERT INTO _realtime.links (user_id, secret, expires)
SELECT id, $2, now() + make_interval(secs => $3) FROM _realtime.users WHERE id = $1 AND NOT disabled FOR SHARE
ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, expires = excluded.expires
RETURNING user_id
"""


async def begin(connection: Connection, user: str, password: str | None) -> tuple[str, Identity]:
    """`password`: the hash that was verified. Returns the secret for the cookie. Raises Unauthorized."""
    given = secret.new()
    id_ = secret.new_id("s")
    await connection.execute(_SWEEP)
    if await connection.fetchval(_BEGIN, user, id_, secret.digest(given), SIGN_IN, password) is None:
        raise Unauthorized("wrong e-mail or password")
    identity = await by_id(connection, id_)
    if identity is None:  # ended again by somebody else, just now
        raise Unauthorized("this sign-in has been ended")
    return given, identity


async def end(connection: Connection, digest: bytes) -> None:
    await connection.execute("DELETE FROM _realtime.sign_ins WHERE secret = $1", digest)


async def by_secret(connection: Connection, digest: bytes) -> Identity | None:
    return _identity(await connection.fetchrow(f"{_FIND} s.secret = $1", digest))


async def by_id(connection: Connection, id_: str) -> Identity | None:
    return _identity(await connection.fetchrow(f"{_FIND} s.id = $1", id_))


async def link(connection: Connection, user: str) -> str:
    """The secret of the one link that a user has. Raises Refused."""
    given = secret.new()
    if await connection.fetchval(_LINK, user, secret.digest(given), LINK) is None:
        raise Refused(f"the account {user} is disabled")
    return given


async def linked(connection: Connection, digest: bytes) -> str:
    """The e-mail of whom a link is for; it stays as good as it was. Raises Unauthorized."""
    email: str | None = await connection.fetchval(
        "SELECT u.email FROM _realtime.links l JOIN _realtime.users u ON u.id = l.user_id"
        " WHERE l.secret = $1 AND l.expires > now()",
        digest,
    )
    if email is None:
        raise _void()
    return email


async def redeem(connection: Connection, digest: bytes) -> tuple[str, Identity]:
    """Once. Raises Unauthorized."""
    user = await connection.fetchval(
        "DELETE FROM _realtime.links WHERE secret = $1 AND expires > now() RETURNING user_id", digest
    )
    if user is None:
        raise _void()
    return await begin(connection, user, None)


def _void() -> Unauthorized:
    return Unauthorized("this link has been used, or is too old", hint="ask for a new one")


def _identity(row: asyncpg.Record | None) -> Identity | None:
    if row is None:
        return None
    name = row["name"] or row["email"]
    return Identity(row["user"], tuple(row["roles"]), "sign-in", row["id"], name, None, row["expires"])
