"""What the writers did and what was broken, as far as checking what clients hear needs to know of it.

Every written value has a number that only grows for its key, and a key has one writer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..protocol import Op


class Journal:
    """What the writers did, and what was broken, since everything was last seen to be in order.

    `now`: seconds, for the histories. `history`: so many events of a channel are kept for those who were away; 0: not
    known, and nobody is owed any.
    """

    def __init__(self, now: Callable[[], float], history: int = 0) -> None:
        self.now, self.history = now, history
        self.forgiven: frozenset[str] = frozenset()  # stores that were made to lose data
        self.excused: frozenset[str] = frozenset()  # stores whose channels may be reset
        self._last: dict[tuple[str, str], int] = {}
        self._deletes: dict[tuple[str, str], list[int]] = {}
        self._done: dict[tuple[str, str], int] = {}
        self._acked: dict[str, list[tuple[str, int]]] = {}
        self._successors: dict[tuple[str, str], str] = {}

    def issue(self, channel: str, key: str, op: Op) -> int:
        """The number of a write that is about to be made."""
        number = self._last[channel, key] = self._last.get((channel, key), 0) + 1
        if op == "delete":
            self._deletes.setdefault((channel, key), []).append(number)
        return number

    def ack(self, channel: str, key: str, n: int, *, exact: bool = True) -> None:
        """It is durable. `exact`: the store promises that each such version is told, not only the last."""
        self._done[channel, key] = n
        if exact:
            self._acked.setdefault(channel, []).append((key, n))

    def give_up(self, channel: str, key: str, successor: str) -> None:
        """Nobody writes that key any more; whoever did has turned to another one."""
        self._successors[channel, key] = successor

    def current(self, channel: str, key: str) -> str:
        """What is written in the place of a key."""
        while (successor := self._successors.get((channel, key))) is not None:
            key = successor
        return key

    def strike(self, loses: Collection[str], resets: Collection[str]) -> None:
        """A fault makes stores lose values, of which nothing is known until the next `settle`; or their history end, of
        which clients may be told until the next fault strikes.
        """
        self.forgiven |= {*loses}
        self.excused = frozenset(resets)

    def settle(self) -> None:
        """Every observer has been settled: begin anew. A delete in doubt may still be made."""
        self.forgiven = frozenset()
        self._acked.clear()
        waiting = {
            of: [each for each in numbers if each > self._done.get(of, 0)] for of, numbers in self._deletes.items()
        }
        self._deletes = {of: numbers for of, numbers in waiting.items() if numbers}

    def knows(self, channel: str, key: str) -> bool:
        return (channel, key) in self._last

    def last(self, channel: str, key: str) -> int:
        return self._last.get((channel, key), 0)

    def keys(self, channel: str) -> list[str]:
        """Those that were deleted at some time: where one is not shown, it may be rightly so."""
        return [key for of, key in self._deletes if of == channel]

    def deleted_after(self, channel: str, key: str, n: int) -> int | None:
        """The first delete behind a write."""
        return next((each for each in self._deletes.get((channel, key), []) if each > n), None)

    def last_delete(self, channel: str, key: str) -> int:
        return max(self._deletes.get((channel, key), []), default=0)

    def acked(self, channel: str) -> list[tuple[str, int]]:
        return self._acked.get(channel, [])
