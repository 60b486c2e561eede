"""How often somebody may try a password: per e-mail and address, so that nobody can lock another one out.

Bounded: whoever wanted to push a count out of memory would have to try 10,000 other e-mails first, at 40 ms each.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from ..errors import TooMany

MOST: Final = 5
PERIOD: Final = 60.0  # seconds
PAIRS: Final = 10_000


class Tries:
    def __init__(self, pairs: int = PAIRS) -> None:
        self._pairs = pairs
        self._times: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def take(self, email: str, address: str, now: float) -> None:
        """`now`: seconds of a clock that does not jump. Raises TooMany."""
        pair = email, address
        recent = [time for time in self._times.pop(pair, ()) if now - time < PERIOD]
        self._times[pair] = recent
        if len(recent) >= MOST:
            error = TooMany(f"more than {MOST} tries in {PERIOD:g} s", hint="wait a minute")
            error.retry_after = math.ceil(PERIOD - (now - recent[0]))
            raise error
        recent.append(now)
        if len(self._times) > self._pairs:
            self._times.popitem(last=False)

    def forget(self, email: str, address: str) -> None:
        """The password was right."""
        self._times.pop((email, address), None)
