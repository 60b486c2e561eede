"""The tables of accounts, in the schema `_realtime` as all that is ours; made by whichever node comes first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from ..errors import StoreDown
from ..stores.pgcatalog import LOCK

if TYPE_CHECKING:
    from ..stores.pgpool import Connection

CHANNEL: Final = "realtime_accounts"  # of NOTIFY; the payload is the id of the user whom it is about, empty: all

_SCHEMA: Final = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
# Not by to_regclass: that remembers, up to the next transaction, that there was none.
_THERE: Final = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = '_realtime' AND tablename = 'users')"


async def ensure(connection: Connection) -> None:
    """Two nodes may start at once. Raises StoreDown where the role may not."""
    if await connection.fetchval(_THERE):
        return
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            if not await connection.fetchval(_THERE):
                await connection.execute(_SCHEMA)
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreDown(
            f"there are no accounts, and their tables cannot be made: {error}",
            hint="GRANT CREATE ON DATABASE … to the service's role, for its schema _realtime",
        ) from error
