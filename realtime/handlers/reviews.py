"""Who is here is looked at again when an account, a token or the rules change: within a second, without a reconnect.

What changed is collected while a look is under way; each sign-in or token is asked about once in a look, however many
connections it has. While the accounts cannot be asked, whoever is here stays, and is asked about again soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from ..auth.gate import Gate
from ..errors import Unavailable
from ..rights import Identity
from ..tasks import Tasks

log = logging.getLogger("realtime.auth")

AGAIN = 0.5  # seconds until those are looked at again about whom the accounts could not be asked


class Guest(Protocol):
    identity: Identity

    def admit(self, identity: Identity) -> None:
        """What they may from now on."""

    def expel(self, reason: str) -> None:
        """They may not be here any more."""


class Reviews:
    def __init__(self, gate: Gate, guests: Callable[[], Iterable[Guest]]) -> None:
        self._gate, self._guests = gate, guests
        self.turn = 0  # whoever was asked in an earlier one, and comes in now, is due
        self._due: set[str | None] = set()  # users; None: all
        self._woken = asyncio.Event()
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.start(self._run(), "reviews")

    async def close(self) -> None:
        await self._tasks.close()

    def due(self, user: str | None) -> None:
        self.turn += 1
        self._due.add(user)
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            due, self._due = self._due, set()
            try:
                done = await self._look([each for each in self._guests() if None in due or each.identity.user in due])
            except Exception:  # whatever it is: nobody may stay because of it
                log.exception("who is here could not be looked at")
                done = False
            if not done:
                self._due |= due
                self._woken.set()
                await asyncio.sleep(AGAIN)

    async def _look(self, guests: Iterable[Guest]) -> bool:
        """False: some could not be asked about."""
        done = True
        found: dict[tuple[str, str], Identity | None] = {}
        for guest in guests:
            identity = guest.identity
            proof = identity.proof, identity.id
            try:
                if proof not in found:
                    found[proof] = await self._gate.still(identity)
            except Unavailable:
                done = False
                continue
            if guest.identity is not identity:  # it showed something newer meanwhile
                continue
            if (now := found[proof]) is None:
                guest.expel("what you showed does not hold any more")
            else:
                guest.admit(now)
        return done
