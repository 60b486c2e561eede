"""Accounts as rows. Everything here is within a caller's connection; who is told of a change, the triggers say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ..errors import Duplicate, NotFound
from . import secret

if TYPE_CHECKING:
    import asyncpg

    from ..stores.pgpool import Connection

_COLUMNS: Final = "id, email, name, roles, disabled, extract(epoch FROM created)::float8 AS created"

_ADD: Final = f"""
INSERT INTO _realtime.users (id, email, name, password, roles) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (email) DO NOTHING RETURNING {_COLUMNS}
"""  # noqa: S608  columns of ours
_GET: Final = f"SELECT {_COLUMNS} FROM _realtime.users WHERE id = $1 OR email = $2"  # noqa: S608
_ALL: Final = f"SELECT {_COLUMNS} FROM _realtime.users ORDER BY email"  # noqa: S608
_CHANGE: Final = f"""
UPDATE _realtime.users SET name = coalesce($2, name), password = coalesce($3, password), roles = coalesce($4, roles),
    disabled = coalesce($5, disabled)
WHERE id = $1 RETURNING {_COLUMNS}
"""  # noqa: S608


class Account(Struct, frozen=True):
    """`created`: seconds since 1970."""

    id: str
    email: str
    name: str
    roles: tuple[str, ...]
    disabled: bool
    created: float


async def add(connection: Connection, email: str, name: str, password: str | None, roles: tuple[str, ...]) -> Account:
    row = await connection.fetchrow(_ADD, secret.new_id("u"), email, name, password, roles)
    if row is None:
        raise Duplicate(f"{email} has an account already")
    return _account(row)


async def get(connection: Connection, user: str) -> Account:
    """By id or e-mail. Raises NotFound."""
    row = await connection.fetchrow(_GET, user, user.strip().lower())
    if row is None:
        raise NotFound(f"no account {user[:254]!r}")
    return _account(row)


async def everybody(connection: Connection) -> list[Account]:
    return [_account(row) for row in await connection.fetch(_ALL)]


async def change(
    connection: Connection,
    id_: str,
    *,
    name: str | None,
    password: str | None,
    roles: tuple[str, ...] | None,
    disabled: bool | None,
) -> Account:
    """What is None stays. With a new password, or disabled, what one signed in with ends."""
    async with connection.transaction():
        row = await connection.fetchrow(_CHANGE, id_, name, password, roles, disabled)
        if row is None:
            raise NotFound(f"no account {id_!r}")
        ended = ["sign_ins", "links"] if password or disabled else []
        # After the update, as statements of their own: who was signing in meanwhile holds the row until then.
        for table in [*ended, *(["tokens"] if disabled else [])]:
            await connection.execute(f"DELETE FROM _realtime.{table} WHERE user_id = $1", id_)  # noqa: S608
    return _account(row)


async def remove(connection: Connection, id_: str) -> None:
    await connection.execute("DELETE FROM _realtime.users WHERE id = $1", id_)


async def password_of(connection: Connection, email: str) -> tuple[str, str] | None:
    """(id, hash) of one who has a password, and is not disabled."""
    row = await connection.fetchrow(
        "SELECT id, password FROM _realtime.users WHERE email = $1 AND NOT disabled AND password IS NOT NULL", email
    )
    return (row["id"], row["password"]) if row is not None else None


async def rehash(connection: Connection, id_: str, old: str, new: str) -> None:
    """Unless somebody has set another password meanwhile."""
    await connection.execute("UPDATE _realtime.users SET password = $3 WHERE id = $1 AND password = $2", id_, old, new)


def _account(row: asyncpg.Record) -> Account:
    return Account(row["id"], row["email"], row["name"], tuple(row["roles"]), row["disabled"], row["created"])
