"""What a service that asks who somebody is opens and closes with itself: accounts, tickets, the file of rules, and the
keys that cookies are signed with.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from ..config import Auth
from ..errors import Unavailable
from ..rights import Rules
from ..tasks import Tasks, delays
from .accounts import Accounts
from .gate import Closed
from .jwts import Jwts
from .rules_file import RulesFile, read_rules
from .tickets import Tickets

Keys = tuple[dict[int, str], int]  # by version, and the version that signs


class Guard:
    """`changed` is told the user of whom something has changed; None: it may be anybody."""

    def __init__(self, auth: Auth, postgres: str, redis: str, changed: Callable[[str | None], None]) -> None:
        """Raises ConfigError."""
        self.accounts = Accounts(postgres, changed)
        self._tickets, self._jwts = Tickets(redis), Jwts.of(auth.jwt)
        self.gate = Closed(read_rules(auth.rules), self.accounts, self._tickets, self._jwts)
        self.keys: Keys | None = None  # until they are known
        self._secrets, self._changed = auth.cookie_secrets, changed
        self._file = None if auth.rules is None else RulesFile(auth.rules, self._replace)
        self._tasks = Tasks()

    async def open(self) -> None:
        await self.accounts.open()
        self._tasks.start(self._find_keys(), "keys of cookies")
        if self._file is not None:
            self._file.open()

    async def close(self) -> None:
        if self._file is not None:
            await self._file.close()
        await self._tasks.close()
        if self._jwts is not None:
            await self._jwts.close()
        await self._tickets.close()
        await self.accounts.close()

    def _replace(self, rules: Rules) -> None:
        self.gate.rules = rules
        self._changed(None)

    async def _find_keys(self) -> None:
        pauses = delays()
        secrets = self._secrets
        while not secrets:
            try:
                secrets = await self.accounts.cookie_secrets()
            except Unavailable:
                await asyncio.sleep(next(pauses))
        self.keys = keys_of(secrets)


def keys_of(secrets: Sequence[str]) -> Keys:
    """A key's version goes with the key, not with its place: the oldest may be taken out of the list."""
    versions = [int.from_bytes(hashlib.sha256(secret.encode()).digest()[:4]) for secret in secrets]
    return dict(zip(versions, secrets, strict=True)), versions[-1]
