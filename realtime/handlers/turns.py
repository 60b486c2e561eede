"""Turns of the loop: whoever was handed something in one is flushed, once, when it is over.

So events that reach this node together go out together, however many they are, and no task and no timer belongs to a
connection. Crowds come first: a session that steps into one has had all that came before.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Due(Protocol):
    def flush(self) -> None:
        """The turn is over. Raises nothing."""


class Turns:
    def __init__(self) -> None:
        self._crowds: list[Due] = []
        self._outlets: list[Due] = []
        self._going = False

    def crowd(self, due: Due) -> None:
        self._crowds.append(due)
        self._begin()

    def outlet(self, due: Due) -> None:
        """Once in each turn."""
        self._outlets.append(due)
        self._begin()

    def _begin(self) -> None:
        if not self._going:
            self._going = True
            asyncio.get_running_loop().call_soon(self._over)

    def _over(self) -> None:
        self._going = False
        crowds, self._crowds = self._crowds, []
        for crowd in crowds:
            crowd.flush()
        outlets, self._outlets = self._outlets, []
        for outlet in outlets:
            outlet.flush()
