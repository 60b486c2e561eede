"""How fast a client wants a channel's events: of what comes faster, the newest event of each key when a period is over.

One for all selections of a channel that a session has, as they may overlap: were one held back and another not, an
event would be told before an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .protocol import Placed

MAX_HELD = 1 << 18  # bytes of events that may wait for a period's end; beyond it they are passed on at once


class Timer(Protocol):
    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Timer]  # seconds, what to call then


class Pace:
    """An event that comes after a pause is passed on at once; it begins a period, in which others are held."""

    __slots__ = ("_held", "_last", "_later", "_pass_on", "_period", "_size", "_timer", "max_rate")

    def __init__(self, max_rate: float, later: Later, pass_on: Callable[[Placed], None]) -> None:
        self.max_rate = max_rate
        self._period, self._later, self._pass_on = 1 / max_rate, later, pass_on
        self._timer: Timer | None = None  # within a period
        self._held: dict[str, Placed] = {}  # by key, in order
        self._size = 0  # bytes held
        self._last: Placed | None = None

    @property
    def holding(self) -> bool:
        return bool(self._held)

    def take(self, event: Placed, own: Placed) -> bool:
        """Also where several selections want it: once. Whether one that was held is told no more."""
        if event is self._last:
            return False
        self._last = event
        if self._timer is None:
            self._begin()
            self._pass_on(own)
            return False
        older = self._held.pop(event.event.key, None)
        self._held[event.event.key] = own
        self._size += own.size - (older.size if older is not None else 0)
        if self._size > MAX_HELD:
            self.let_go()
        return older is not None

    def let_go(self) -> None:
        """Of what is held, before something else is told of the channel."""
        held, self._held, self._size = self._held, {}, 0
        for event in held.values():
            self._pass_on(event)

    def close(self) -> None:
        self._held, self._size = {}, 0
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._timer = self._later(self._period, self._over)

    def _over(self) -> None:
        self._timer = None
        if self._held:
            self._begin()
            self.let_go()
