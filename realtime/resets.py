"""Shows sessions the state anew, where the history of what they follow is gone.

In tasks of its own, since it may have to wait for its store: meanwhile events go on for every other session, and so
does the filling of holes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from .errors import RealtimeError, Unavailable
from .protocol import Cursor, Failure
from .stores.base import Snapshot
from .subscription import Subscription
from .tasks import Tasks, delays

log = logging.getLogger("realtime.resets")

AT_ONCE = 8  # snapshots of a store; more would only wait for each other, and their time run out

Read = Callable[[str, Sequence[str] | None], Awaitable[Snapshot]]  # channel, keys (None: all)
Drop = Callable[[Subscription], None]
Place = Callable[[], Cursor]


class Resets:
    """`read` reads a snapshot; `drop` ends a subscription."""

    def __init__(self, read: Read, drop: Drop) -> None:
        self._read, self._drop = read, drop
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))  # by store
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()

    def show(self, channel: str, place: Place, listeners: Sequence[Subscription], reason: str) -> None:
        """One snapshot for those that listen to all keys, one for the others; `place`: where the channel is by then.

        From now on they are joining; one that is already reads on its own, and what it read is void.
        """
        every: list[Subscription] = []
        by_key: list[Subscription] = []
        for subscription in listeners:
            if subscription.line is None:
                (every if subscription.key is None else by_key).append(subscription)
                subscription.begin()
            else:
                subscription.stale = True
        for subscriptions in filter(None, (every, by_key)):
            self._tasks.start(self._show(channel, place, subscriptions, reason), f"reset {channel}")

    async def _show(self, channel: str, place: Place, subscriptions: Sequence[Subscription], reason: str) -> None:
        """They stay in line for as long as the store is down."""
        pauses, turn = delays(), self._turns[channel.partition("/")[0]]
        while subscriptions := [each for each in subscriptions if each.held]:
            try:
                async with turn:
                    for subscription in subscriptions:
                        subscription.begin()
                    position = place()
                    snapshot = await self._read(channel, _keys(subscriptions))
            except Unavailable:
                await asyncio.sleep(next(pauses))
            except RealtimeError as error:  # the collection is gone, or has grown too large to show
                return self._refuse(subscriptions, error)
            except Exception:
                log.exception("%s could not be read for a reset", channel)
                return self._refuse(subscriptions, RealtimeError("the store could not be read"))
            else:
                if not any(subscription.stale for subscription in subscriptions):
                    return _give(snapshot, position, subscriptions, reason)
        return None

    def _refuse(self, subscriptions: Sequence[Subscription], error: RealtimeError) -> None:
        for subscription in subscriptions:
            if subscription.held:
                subscription.session.send(Failure(subscription.id, error.code, str(error), error.hint or ""))
                self._drop(subscription)


def _keys(subscriptions: Sequence[Subscription]) -> Sequence[str] | None:
    return sorted({each.key for each in subscriptions if each.key is not None}) or None


def _give(snapshot: Snapshot, position: Cursor, subscriptions: Sequence[Subscription], reason: str) -> None:
    cursor = Cursor(position.epoch, position.offset, snapshot.fence)
    for subscription in subscriptions:
        if subscription.held:
            subscription.reset(cursor, snapshot.of(subscription.key), reason)
