"""Accounts on a database of their own, and what a node is told of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from realtime.auth.accounts import Accounts
from tests.wait import until

EMAIL, PASSWORD = "ann@example.org", "correct horse"
HERE = "127.0.0.1"


class Told(list[str | None]):
    """Whom a node was told of; None: anybody."""

    def __call__(self, user: str | None) -> None:
        self.append(user)


@asynccontextmanager
async def opened(url: str, told: Told | None = None) -> AsyncGenerator[Accounts, None]:
    """Once it hears."""
    told = Told() if told is None else told
    accounts = Accounts(url, told)
    await accounts.open()
    try:
        await until(lambda: None in told)
        yield accounts
    finally:
        await accounts.close()
