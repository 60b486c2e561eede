"""Passwords, hashed by argon2id with OWASP's numbers. A hash takes some 40 ms and 19 MiB, so hashing has threads of its
own, few, and a short queue: a flood of sign-ins is turned away rather than let the node's memory and its loop feel it.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from secrets import token_bytes
from threading import Semaphore
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from argon2.low_level import Type

from ..errors import Refused, Unavailable

MEMORY: Final = 19_456  # KiB
ROUNDS: Final = 2
LANES: Final = 1
SHORTEST: Final = 8  # characters
LONGEST: Final = 256
THREADS: Final = 2
WAITING: Final = 8  # beyond the ones that are being hashed; more are turned away with 503

_T = TypeVar("_T")


def check_password(password: str) -> None:
    """Raises Refused for one that nobody may choose."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Refused(f"a password has {SHORTEST} to {LONGEST} characters (got {len(password)})")


class Passwords:
    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=ROUNDS, memory_cost=MEMORY, parallelism=LANES, type=Type.ID)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._places = Semaphore(THREADS + WAITING)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Raises Unavailable where too many wait."""
        return await self._aside(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """None: of nobody, which takes as long, so that nobody learns from the time who has an account."""
        if len(password) > LONGEST:
            return False
        return await self._aside(lambda: self._is(hashed or _nobodys(), password) and hashed is not None)

    def outdated(self, hashed: str) -> bool:
        """Made with other numbers than today's."""
        return self._hasher.check_needs_rehash(hashed)

    def _is(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, _bytes(password))
        except (VerifyMismatchError, InvalidHashError):
            return False

    async def _aside(self, work: Callable[[], _T]) -> _T:
        if not self._places.acquire(blocking=False):
            raise Unavailable("too many are signing in at once")
        hashing = self._threads.submit(work)
        # By the thread, and not by who waits: who gives up waiting does not end what runs.
        hashing.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(hashing)


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def _nobodys() -> str:
    """A hash as ours are, of no password."""
    salt, digest = (b64encode(token_bytes(size)).rstrip(b"=").decode() for size in (16, 32))
    return f"$argon2id$v=19$m={MEMORY},t={ROUNDS},p={LANES}${salt}${digest}"
