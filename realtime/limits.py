"""How much of something there may be in a time: token buckets, of one and of many by name. Pure: `now` is given.

A bucket is one number, when it will be full again: so 15,000 connections can have some each, and one that is full need
not be remembered at all. (The generic cell rate algorithm, ITU-T I.371.)
"""

from __future__ import annotations

from collections.abc import Hashable

FULL = 0.0  # a bucket that was never taken from
BURST = 4.0  # seconds' worth of its rate that a bucket holds
MAX_NAMES = 1 << 16


class Rate:
    """`a_second` tokens come back; a bucket holds `burst` of them, four seconds' worth unless given."""

    __slots__ = ("_each", "_holds")

    def __init__(self, a_second: float, burst: float | None = None) -> None:
        self._each = 1 / a_second
        self._holds = (a_second * BURST if burst is None else burst) * self._each

    def take(self, full: float, now: float) -> float | None:
        """When the bucket that is full again at `full` is so with one token less; None: it has none."""
        after = max(full, now) + self._each
        return after if after - now <= self._holds + self._each / 1000 else None  # what floats leave is no token

    def wait(self, full: float, now: float) -> float:
        """Seconds until there is a token."""
        return max(full + self._each - self._holds - now, 0.0)


class Buckets:
    """One for each name, of those that are not full. Beyond `most` names the oldest half is forgotten: whoever has that
    many can be given four seconds' worth more.
    """

    def __init__(self, rate: Rate, most: int = MAX_NAMES) -> None:
        self._rate, self._most = rate, most
        self._full: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._full)

    def take(self, name: Hashable, now: float) -> bool:
        full = self._rate.take(self._full.get(name, FULL), now)
        if full is None:
            return False
        if name not in self._full and len(self._full) >= self._most:
            self._make_room(now)
        self._full[name] = full
        return True

    def wait(self, name: Hashable, now: float) -> float:
        return self._rate.wait(self._full.get(name, FULL), now)

    def _make_room(self, now: float) -> None:
        left = {name: full for name, full in self._full.items() if full > now}
        over = len(left) - self._most // 2
        self._full = dict(list(left.items())[over:]) if over > 0 else left
