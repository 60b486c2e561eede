"""What the ways past the service share: a write ends in time, and is done, refused, or in doubt; there is no fourth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from ...errors import Refused

BOUND = 5.0  # seconds for one call

Failures = tuple[type[Exception], ...]


class Doubt(Exception):
    """Whether it was done, nobody can say: it may still be, later. `fault`: whose answer that is has made a mistake."""

    def __init__(self, text: str, *, fault: bool = False) -> None:
        super().__init__(text)
        self.fault = fault


class Way(Protocol):
    """How a writer reaches a collection. Both raise Doubt, or Refused where the store will not; `delete` raises
    NotFound where there is nothing. `exact`: each such write is promised to be told, not only the last of a key."""

    exact: bool

    async def put(self, key: str, value: dict[str, Any]) -> None: ...

    async def delete(self, key: str) -> None: ...


class Outside(Way, Protocol):
    """A store as other programs reach it, with one collection in it; `routes` are the names of such programs.

    1. A write is durable when it returns.
    2. Each call ends within `BOUND` seconds, and the next one succeeds once the store is back, wherever that is.
    3. `read` gives all items as a replica shows them: key to decoded JSON. It raises Doubt.
    """

    store: str
    routes: tuple[str, ...]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def make(self) -> None: ...

    async def drop(self) -> None: ...

    async def read(self) -> dict[str, Any]: ...


@asynccontextmanager
async def bounded(doubts: Failures, refusals: Failures = ()) -> AsyncIterator[None]:
    """For one call of a driver: what goes wrong in it is a Doubt, except for `refusals`."""
    try:
        async with asyncio.timeout(BOUND):
            yield
    except refusals as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    except doubts + (OSError,) as error:  # noqa: RUF005  for mypy; a TimeoutError is an OSError
        raise Doubt(f"{type(error).__name__}: {error}") from error
