"""Where a node under test dies, stalls or loses the time when it is told to, so that a fault strikes where it hurts.

They wrap the broker and the stores that the node is made of: what is tested is the product's code, unchanged.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, cast

from ..brokers.base import Broker
from ..protocol import Change
from ..stores.base import Store, Written

log = logging.getLogger("realtime.verify.failpoints")

DEATHS = ("before-append", "after-append", "in-transaction", "after-commit")

_now = time.time


class Failpoints:
    """`take` a line: `die before-append STORE` (or after-append, in-transaction, after-commit), `stall SECONDS`, …"""

    def __init__(self) -> None:
        self._deaths: set[tuple[str, str]] = set()

    def take(self, line: str) -> None:
        """Every line is acknowledged in the log. Raises ValueError for what is none of ours."""
        match line.split():
            case ["die", where, store] if where in DEATHS:
                log.info("failpoint: %s", line)
                self._deaths.add((where, store))
            case ["stall", seconds]:
                log.info("failpoint: %s", line)
                time.sleep(float(seconds))  # the loop, that is
            case ["clock", seconds]:
                log.info("failpoint: %s", line)
                _set_clock(float(seconds))
            case _:
                raise ValueError(f"no failpoint: {line!r}")

    def armed(self, where: str, store: str) -> bool:
        return (where, store) in self._deaths

    def reach(self, where: str, store: str) -> None:
        if self.armed(where, store):
            die()

    def broker(self, broker: Broker) -> Broker:
        return cast("Broker", _Broker(broker, self))

    def store(self, store: Store) -> Store:
        return cast("Store", _Store(store, self))


class _Wrapper:
    """What it does not do itself, the wrapped one does."""

    def __init__(self, wrapped: Any, points: Failpoints) -> None:
        self._wrapped, self._points = wrapped, points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class _Broker(_Wrapper):
    async def publish(self, channel: str, changes: Sequence[Change]) -> None:
        store = channel.partition("/")[0]
        self._points.reach("before-append", store)
        if len(changes) > 1 and self._points.armed("in-transaction", store):
            await self._wrapped.publish(channel, changes[: len(changes) // 2])
            die()
        await self._wrapped.publish(channel, changes)
        self._points.reach("after-append", store)


class _Store(_Wrapper):
    async def put(self, *arguments: Any) -> Written:
        return self._committed(await self._wrapped.put(*arguments))

    async def patch(self, *arguments: Any) -> Written:
        return self._committed(await self._wrapped.patch(*arguments))

    async def delete(self, *arguments: Any) -> Written:
        return self._committed(await self._wrapped.delete(*arguments))

    def _committed(self, written: Written) -> Written:
        self._points.reach("after-commit", self._wrapped.name)
        return written


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _set_clock(offset: float) -> None:
    """The wall clock of this process is off by that; the loop's own clock, by which it waits, is not."""

    def shifted() -> float:
        return _now() + offset

    time.time = shifted
