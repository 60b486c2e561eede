"""Those who write, through the service and past it, and put down in the journal what they know of each write.

A key has one writer, and its number grows with each write. So a write in doubt, which may be made later, must stay the
last of its key: the key is given up for ever and another one takes its place. A writer stays with that one until it is
answered again, so that an outage costs a key for each writer and not all, and collections stay small.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any

from msgspec import Struct
from tornado.httpclient import AsyncHTTPClient

from ..errors import NotFound, Refused
from ..tasks import Tasks
from .checker import Report, Violation
from .journal import Journal
from .outside import Doubt, Outside, Way
from .rest import WAITS, Rest
from .stage import Stage

log = logging.getLogger("realtime.verify.writers")

WRITERS = 3  # for each channel
PAST = 0.3  # of the writes go past the service
DELETED = 0.15  # of the writes to what is there
PADDED = 0.1  # of the values are larger
PAD = 250, 2000  # bytes, half of what they are as text
SHY = 0.05  # seconds until the next try after a write in doubt


class Key(Struct):
    """One of a writer's places; its name changes with each time that it is given up."""

    place: int
    given_up: int = 0
    there: bool = False  # as far as its writer knows

    @property
    def name(self) -> str:
        return f"k{self.place}.{self.given_up}" if self.given_up else f"k{self.place}"

    def give_up(self) -> None:
        self.given_up += 1
        self.there = False


class Channel(Struct):
    """A collection that is written to: `ways`, by the name that its values carry. `plainly`: as `service`, and
    answered as soon as the store has it."""

    store: str
    name: str
    service: Rest
    plainly: Rest
    past: Mapping[str, Way]
    keys: list[Key]


def _loud(violation: Violation) -> None:
    log.error("%s: %s", violation.channel, violation.text)


class Writers:
    """`writes`: by store and way, those that were done; and by store those in doubt. `report` hears of what no writer
    should have been answered."""

    def __init__(
        self,
        stage: Stage,
        journal: Journal,
        outside: Sequence[Outside],
        dice: Random,
        report: Report = _loud,
        *,
        keys: int = 24,
        pause: float = 0.03,
    ) -> None:
        self.writes: Counter[str] = Counter()
        self._stage, self._journal, self._dice, self._report = stage, journal, dice, report
        self._pause = pause
        self._past = {each.store: each for each in outside}
        self._http = AsyncHTTPClient(force_instance=True, max_clients=WRITERS * len(stage.stores))
        self._channels = [self._channel(store, keys) for store in stage.stores]
        self._tasks = Tasks()
        self._running: list[asyncio.Task[None]] = []
        self._stopping = False

    def _channel(self, store: str, keys: int) -> Channel:
        name = f"{store}/{self._stage.collection}"
        past = self._past.get(store)
        ways = {} if past is None else dict.fromkeys(past.routes, past)
        rest, plainly = (Rest(self._stage, name, self._http, self._dice, waits=waits) for waits in (WAITS, 0.0))
        return Channel(store, name, rest, plainly, ways, [Key(place) for place in range(keys)])

    def start(self) -> None:
        self._stopping = False
        self._running = [
            self._tasks.start(self._write(channel, channel.keys[nth::WRITERS]), f"writer {nth} of {channel.name}")
            for channel in self._channels
            for nth in range(WRITERS)
        ]

    async def stop(self) -> None:
        """No new writes; those in flight are answered or given up within `BOUND`."""
        self._stopping = True
        for task in self._running:
            if task.done():
                self._report(Violation("write", f"{task.get_name()} died: the log says of what"))
        if self._running:
            await asyncio.wait(self._running)
            self._running = []
        for channel in self._channels:
            if channel.store in self._journal.forgiven:  # what it has lost, its writers cannot know
                for key in channel.keys:
                    key.there = False

    async def probe(self, observed: Collection[tuple[str, str]]) -> None:
        """A write by REST to each channel, and to each of these keys in it, until each is answered; for ever."""
        await asyncio.gather(*(self._probe(channel, observed) for channel in self._channels))

    async def _probe(self, channel: Channel, observed: Collection[tuple[str, str]]) -> None:
        keys = [key for key in channel.keys if (channel.name, key.name) in observed]
        for key in keys or [self._dice.choice(channel.keys)]:
            while not await self._make(channel, key, "rest", channel.plainly):  # noqa: ASYNC110  no event tells
                await asyncio.sleep(SHY)

    async def close(self) -> None:
        await self.stop()
        await self._tasks.close()
        self._http.close()

    async def _write(self, channel: Channel, keys: Sequence[Key]) -> None:
        """One write after the other."""
        key = self._dice.choice(keys)
        while not self._stopping:
            answered = await self._once(channel, key)
            if answered:
                key = self._dice.choice(keys)
            await asyncio.sleep(self._pause if answered else SHY)

    async def _once(self, channel: Channel, key: Key) -> bool:
        deletes = key.there and self._dice.random() < DELETED
        return await self._make(channel, key, *self._way(channel), deletes=deletes)

    async def _make(self, channel: Channel, key: Key, name: str, way: Way, *, deletes: bool = False) -> bool:
        """Whether the write was answered; else the key is given up."""
        n = self._journal.issue(channel.name, key.name, "delete" if deletes else "put")
        self._stage.names.add(key.name)
        try:
            if deletes:
                await way.delete(key.name)
            else:
                await way.put(key.name, self._value(name, n))
        except Doubt as error:
            log.debug("in doubt: %s of %s: %s", key.name, channel.name, error)
            self.writes[f"{channel.store} in doubt"] += 1
            if error.fault:
                self._surprised(channel, f"{key.name} met a mistake: {error}")
            given_up = key.name
            key.give_up()
            self._journal.give_up(channel.name, given_up, key.name)
            return False
        except NotFound as error:
            key.there = False
            if channel.store not in self._journal.forgiven:
                self._surprised(channel, f"{key.name} should be there to be deleted: {error}")
        except Refused as error:
            self._surprised(channel, f"{key.name} was refused by {name}: {error}")
        else:
            key.there = not deletes
            self._journal.ack(channel.name, key.name, n, exact=way.exact)
            self.writes[f"{channel.store} {name}"] += 1
        return True

    def _way(self, channel: Channel) -> tuple[str, Way]:
        if channel.past and self._dice.random() < PAST:
            return self._dice.choice([*channel.past.items()])
        return "rest", channel.service

    def _value(self, name: str, n: int) -> dict[str, Any]:
        value = {"n": n, "by": name}
        if self._dice.random() < PADDED:
            value["pad"] = self._dice.randbytes(self._dice.randint(*PAD)).hex()
        return value

    def _surprised(self, channel: Channel, text: str) -> None:
        self._report(Violation("write", text, "writer", channel.name))
