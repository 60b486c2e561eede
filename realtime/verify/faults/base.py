"""What a fault is: a name, what happens, what must be ours to break, and how it strikes and is lifted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

from ...tasks import Tasks

if TYPE_CHECKING:
    from ..stage import Stage

NODES = frozenset({"nodes"})  # what most of them need

Strike = Callable[["Stage", Random], AbstractAsyncContextManager[None]]


class NotStruck(Exception):
    """There was nothing to strike; all is as it was."""


class Fault(Struct, frozen=True):
    """Entering `strike` injects it; leaving lifts it, and everything is up again then, also after an error.

    It raises NotStruck where there is nothing to strike. `needs`: a subset of `Stage.owned`, or `url:<store>` where
    knowing its address is enough. `hold`: seconds between the two. `loses`: the stores whose own data are thrown away
    or rewritten, so that nothing is promised of them. `resets`: those whose history ends, so that clients are told so
    (`reset`), and not every version; all others' has to hold. `takeover`: seconds until a feed must have another holder
    than the one that was killed or frozen.
    """

    name: str
    text: str  # one line
    strike: Strike
    needs: frozenset[str]
    hold: float = 1.0
    loses: frozenset[str] = frozenset()
    resets: frozenset[str] = frozenset()
    takeover: float | None = None
    long: bool = False  # it takes minutes: only where it is asked for by name


CALM = Fault("calm", "nothing is broken, as nothing is ours to break", lambda *_: nullcontext(), frozenset(), hold=2.0)


@asynccontextmanager
async def meanwhile(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Something that goes on for as long as the fault is on."""
    tasks = Tasks()
    tasks.start(work, name)
    try:
        yield
    finally:
        await tasks.close()
