"""Tokens for programs: what their user may, within the token's scopes. Within a caller's connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ..errors import NotFound, Refused
from ..rights import Identity
from . import secret

if TYPE_CHECKING:
    import asyncpg

    from ..stores.pgpool import Connection

MOST: Final = 100  # of one account
USED: Final = 60.0  # seconds; that a token was used is not written more often
START: Final = len(secret.TOKEN) + 4  # characters of the secret that are shown

_COLUMNS: Final = """
id, name, scopes, start, extract(epoch FROM created)::float8 AS created, extract(epoch FROM expires)::float8 AS expires,
extract(epoch FROM used)::float8 AS used
"""
# Held to the end of the transaction: two at once count each other, and who is being disabled gets none.
_OWNER: Final = "SELECT id FROM _realtime.users WHERE id = $1 AND NOT disabled FOR NO KEY UPDATE"
_ISSUE: Final = """
INSERT INTO _realtime.tokens (id, secret, user_id, name, scopes, start, expires)
SELECT $2, $3, $1, $4, $5, $6, to_timestamp($7)
WHERE (SELECT count(*) FROM _realtime.tokens WHERE user_id = $1) < $8
"""
_FIND: Final = """
SELECT t.id AS id, u.id AS user, u.roles, u.email, u.name, t.scopes, extract(epoch FROM t.expires)::float8 AS expires
FROM _realtime.tokens t JOIN _realtime.users u ON u.id = t.user_id
WHERE (t.expires IS NULL OR t.expires > now()) AND NOT u.disabled AND
"""


class Token(Struct, frozen=True):
    """`start`: the first characters of the secret. Times are seconds since 1970."""

    id: str
    name: str
    scopes: tuple[str, ...]
    start: str
    created: float
    expires: float | None
    used: float | None


async def issue(
    connection: Connection, user: str, name: str, scopes: tuple[str, ...], expires: float | None
) -> tuple[Token, str]:
    """With the secret, which is not to be had again. Raises Refused."""
    given = secret.TOKEN + secret.new()
    values = secret.new_id("t"), secret.digest(given), name, scopes, given[:START], expires, MOST
    async with connection.transaction():
        if await connection.fetchval(_OWNER, user) is None:
            raise Refused(f"the account {user} is disabled")
        row = await connection.fetchrow(f"{_ISSUE} RETURNING {_COLUMNS}", user, *values)
    if row is None:
        raise Refused(f"the account {user} has {MOST} tokens, and more it may not have", hint="revoke one")
    return _token(row), given


async def of_user(connection: Connection, user: str) -> list[Token]:
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM _realtime.tokens WHERE user_id = $1 ORDER BY created",  # noqa: S608  columns of ours
        user,
    )
    return [_token(row) for row in rows]


async def revoke(connection: Connection, user: str, id_: str) -> None:
    done = "DELETE FROM _realtime.tokens WHERE user_id = $1 AND id = $2 RETURNING id"
    if await connection.fetchval(done, user, id_) is None:
        raise NotFound(f"no token {id_[:64]!r}")


async def by_secret(connection: Connection, digest: bytes) -> Identity | None:
    return _identity(await connection.fetchrow(f"{_FIND} t.secret = $1", digest))


async def by_id(connection: Connection, id_: str) -> Identity | None:
    return _identity(await connection.fetchrow(f"{_FIND} t.id = $1", id_))


async def write_used(connection: Connection, ids: Iterable[str]) -> None:
    await connection.execute(
        "UPDATE _realtime.tokens SET used = now()"
        " WHERE id = ANY($1) AND (used IS NULL OR used < now() - make_interval(secs => $2))",
        list(ids), USED,
    )  # fmt: skip


def _token(row: asyncpg.Record) -> Token:
    return Token(
        row["id"], row["name"], tuple(row["scopes"]), row["start"], row["created"], row["expires"], row["used"]
    )


def _identity(row: asyncpg.Record | None) -> Identity | None:
    if row is None:
        return None
    name = row["name"] or row["email"]
    return Identity(row["user"], tuple(row["roles"]), "token", row["id"], name, tuple(row["scopes"]), row["expires"])
