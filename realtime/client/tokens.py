"""Who the client says it is: a token, or something to ask for one, which is asked again when the last does not hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

Token = str | Callable[[], str | Awaitable[str]] | None


class Tokens:
    def __init__(self, token: Token) -> None:
        self._ask = token if callable(token) else None
        self._token = None if callable(token) or token is None else _fit(token)
        self._asking = asyncio.Lock()

    async def get(self) -> str | None:
        """What to show. Raises what the asked raises."""
        return await self.renew(None) if self._ask is not None and self._token is None else self._token

    async def renew(self, old: str | None) -> str | None:
        """Another than `old`, which does not hold (any more); the same where there is nobody to ask."""
        async with self._asking:  # several find out at once
            if self._ask is not None and self._token == old:
                answer = self._ask()
                self._token = _fit(await answer if isawaitable(answer) else answer)
        return self._token


def _fit(token: str) -> str:
    """For a header; one that was read from a file has a line's end. Raises ValueError, without the token."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError("a token that no header takes")
    return token


def header(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}
