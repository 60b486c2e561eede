"""How current each store's events are, on this node, so that a page can say that what it shows is stale.

`down`: the store does not answer. `lagging`: it does, but its changes do not reach us, as the
broker is out of reach, or a defect stops the feed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from .errors import StoreDown
from .metrics import Metrics
from .protocol import OPS, Placed, Source, State
from .stores.base import Store
from .tasks import Tasks

log = logging.getLogger("realtime.sources")

PROBE = 2.0  # seconds between two looks at each store
FIRST = 1.0  # seconds that opening waits for the first looks


class Sources:
    """`tell` is called with a source whose state changed."""

    def __init__(self, stores: Sequence[Store], metrics: Metrics, tell: Callable[[Source], None]) -> None:
        self.states = {store.name: Source(store.name, "down", 0.0) for store in stores}
        self.collections: dict[str, Mapping[str, Mapping[str, object]]] = {store.name: {} for store in stores}
        self.errors: dict[str, str | None] = {store.name: "not asked yet" for store in stores}
        self.cut_off = False  # from the broker's deliveries
        self._troubles: dict[str, str] = {}  # defects that stop feeds of this node
        self._stores, self._metrics, self._tell = stores, metrics, tell
        # looked up once: each event of this node passes here
        self._delays = {store.name: metrics.delay.labels(store.name) for store in stores}
        self._events = {(store.name, op): metrics.events.labels(store.name, op) for store in stores for op in OPS}
        self._tasks = Tasks()

    async def open(self) -> None:
        await asyncio.wait([self._tasks.start(self.check(), "first look at the stores")], timeout=FIRST)
        self._tasks.every(PROBE, self.check, "sources")

    async def close(self) -> None:
        await self._tasks.close()

    async def check(self) -> None:
        """Ask every store now, side by side."""
        await asyncio.gather(*map(self._probe, self._stores))

    def heard(self, event: Placed) -> None:
        """An event of a store reached this node."""
        name = event.event.channel.partition("/")[0]
        lag = max(0.0, time.time() - event.event.time)
        self.states[name].lag = lag
        self._events[name, event.event.op].inc()
        self._delays[name].observe(lag)

    def feed(self, name: str, error: str | None) -> None:
        """The defect that stops this node's feed of a store; None: it runs again."""
        if error is None:
            self._troubles.pop(name, None)
        else:
            self._troubles[name] = error
        if self.states[name].state != "down":
            self._say(name, self._up(name))

    def broken(self) -> None:
        self.cut_off = True
        self._say_all()

    def recovered(self) -> None:
        self.cut_off = False
        self._say_all()

    def _say_all(self) -> None:
        for name, source in list(self.states.items()):
            if source.state != "down":
                self._say(name, self._up(name))

    def _up(self, name: str) -> State:
        """Of a store that answers."""
        return "lagging" if self.cut_off or name in self._troubles else "live"

    async def _probe(self, store: Store) -> None:
        try:
            self.collections[store.name] = await store.collections()
        except StoreDown as error:
            self.errors[store.name] = str(error)
            self._say(store.name, "down")
        else:
            self.errors[store.name] = self._troubles.get(store.name)
            self._say(store.name, self._up(store.name))

    def _say(self, name: str, state: State) -> None:
        before = self.states[name]
        self._metrics.store_up.labels(name).set(state != "down")
        if before.state != state:
            log.log(logging.INFO if state == "live" else logging.WARNING, "%s is %s", name, state)
            self.states[name] = Source(name, state, before.lag)
            self._tell(self.states[name])
