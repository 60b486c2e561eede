"""The hold that an iterator or a replica has on its selection: when it is gone, so is the subscription.

A loop that is left by `break` or an exception closes nothing, it just forgets its iterator; so forgetting counts.
"""

from __future__ import annotations

import asyncio
import weakref

from .link import Link
from .selections import Selection


class Held:
    """Gone when it is let go of, or forgotten, in whichever thread."""

    def __init__(self, link: Link, selection: Selection) -> None:
        self._link, self._selection = link, selection
        self._forgotten = weakref.finalize(self, _drop, asyncio.get_running_loop(), link, selection)
        self._forgotten.atexit = False

    def resume(self) -> None:
        """Its sink has room again."""
        self._link.resume(self._selection)

    def let_go(self) -> None:
        if self._forgotten.detach() is not None:
            self._link.drop(self._selection)


def _drop(loop: asyncio.AbstractEventLoop, link: Link, selection: Selection) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(link.drop, selection)
