"""Clients that come and go: each with its own selections, now on this transport and node, now on that, on one cursor.

A client that comes back resumes, and so is told what it was never told before: a lost last message would not be seen.
Therefore clients can be held: a held one stays where it is until its connection breaks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Protocol

from ..protocol import Mode
from ..tasks import Tasks
from .checker import Observer, Report
from .connection import Ended
from .conversation import Conversation
from .journal import Journal
from .transports import TRANSPORTS, converse

log = logging.getLogger("realtime.verify.clients")

STAY = 0.3, 6.0  # seconds
PAUSE = 0.02, 0.2  # seconds between two conversations, also where nobody answers
KEYS = 24  # those that are observed one by one are k0, k1, …
WHOLE = 5 / 6  # of the selections are of whole channels
LATEST = 1 / 5  # of the observers need not be told everything
SEVERAL = (1, 1, 1, 1, 2, 3)  # selections of one client

Selection = tuple[str, str | None]  # channel, key


class Reachable(Protocol):
    """What clients know of a stage."""

    @property
    def collection(self) -> str: ...

    @property
    def stores(self) -> Sequence[str]: ...

    def addresses(self) -> list[str]: ...


class Client:
    """One program at the other end; `observers`: one for each of its selections, none of which overlap.

    `transports`: those that it uses, another each time, and another node.
    """

    def __init__(
        self,
        stage: Reachable,
        observers: Sequence[Observer],
        dice: Random,
        *,
        transports: Sequence[str] = tuple(TRANSPORTS),
        stay: tuple[float, float] = STAY,
    ) -> None:
        self.observers = observers
        self.conversations: Counter[str] = Counter()  # by transport, those in which it was told something
        self.messages: Counter[str] = Counter()  # by transport
        self._stage, self._dice, self._transports, self._stay = stage, dice, transports, stay
        self._held = False
        self._talk: Conversation | None = None  # under way
        self._leaving: asyncio.Timeout | None = None  # the end of that
        self._place = ("", "")  # transport and address of the one before

    def hold(self) -> None:
        """From now on it stays where it is, until its connection breaks."""
        self._held = True
        self._leave_after(None)

    def flap(self) -> None:
        self._held = False
        self._leave_after(self._dice.uniform(*self._stay))

    def follow(self, journal: Journal) -> None:
        """Of keys that their writers gave up, observe what took their places: leave, and come back with those."""
        observers = [_moved(each, journal) for each in self.observers]
        if observers != self.observers:
            self.observers = observers
            self._leave_after(0)

    @property
    def live(self) -> bool:
        """It is connected, and all of its selections are answered."""
        return self._talk is not None and self._talk.answered

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._visit()
            await asyncio.sleep(self._dice.uniform(*PAUSE))

    async def _visit(self) -> None:
        if not (addresses := self._stage.addresses()):
            return
        self._place = self._other(self._transports, self._place[0]), self._other(addresses, self._place[1])
        conversation = self._talk = self._conversation(*self._place)
        try:
            async with asyncio.timeout(None if self._held else self._dice.uniform(*self._stay)) as self._leaving:
                await converse(conversation)
        except (Ended, TimeoutError):
            pass
        except Exception as error:
            log.exception("%s on %s %s", self.observers[0].name, *self._place)
            self.observers[0].blame("protocol", f"{type(error).__name__}: {error}")
        finally:
            self._talk = self._leaving = None
            self.conversations[conversation.transport] += conversation.messages > 0
            self.messages[conversation.transport] += conversation.messages

    def _conversation(self, transport: str, address: str) -> Conversation:
        return Conversation(transport, address, self.observers, politely=self._dice.random() < 0.5)

    def _other(self, choices: Sequence[str], before: str) -> str:
        """Another one than before, if there is one."""
        return self._dice.choice([each for each in choices if each != before] or choices)

    def _leave_after(self, seconds: float | None) -> None:
        if self._leaving is not None and not self._leaving.expired():
            self._leaving.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


class Fleet:
    """`size` clients, together on all channels under test; besides, for each transport one that keeps to it and follows
    all channels, so that each is heard on each through every fault; and two that read slowly.
    """

    def __init__(self, stage: Reachable, journal: Journal, size: int, dice: Random, report: Report) -> None:
        self._journal, self._dice = journal, dice
        self._clients: list[Client] = []
        self._tasks = Tasks()
        channels = [*(f"{store}/{stage.collection}" for store in stage.stores), "weather/current"]
        for number in range(size):
            own = Random(dice.getrandbits(64))  # noqa: S311
            observers = [
                Observer(f"client-{number}.{part}", channel, key, _mode(own), journal, report)
                for part, (channel, key) in enumerate(_selections(channels, channels[number % len(channels)], own))
            ]
            self._clients.append(Client(stage, observers, own))
        for transport in TRANSPORTS:
            observers = [
                Observer(f"{transport} {channel}", channel, None, "all", journal, report) for channel in channels
            ]
            self._clients.append(Client(stage, observers, Random(dice.getrandbits(64)), transports=[transport]))  # noqa: S311
        modes: tuple[Mode, ...] = ("latest", "all")
        slow = [Observer(f"slow-{mode}", f"redis/{stage.collection}", None, mode, journal, report) for mode in modes]
        self._slow = [SlowReader(stage, observer, dice) for observer in slow]

    @property
    def observers(self) -> list[Observer]:
        return [observer for client in (*self._clients, *self._slow) for observer in client.observers]

    @property
    def keys(self) -> set[tuple[str, str]]:
        """Those that are observed one by one, each with its channel."""
        return {(each.channel, each.key) for each in self.observers if each.key is not None}

    @property
    def conversations(self) -> Counter[str]:
        """By transport, those in which a client was told something."""
        return sum((client.conversations for client in self._clients), Counter())

    @property
    def messages(self) -> Counter[str]:
        """By transport."""
        return sum((client.messages for client in self._clients), Counter())

    def open(self) -> None:
        for number, client in enumerate(self._clients):
            self._tasks.start(client.run(), f"client {number}")
        for slow in self._slow:
            self._tasks.start(slow.run(), slow.observer.name)

    async def close(self) -> None:
        await self._tasks.close()

    def hold(self, share: float = 1.0) -> None:
        """This share of the clients stay where they are from now on. When all do, those that read slowly read."""
        if share == 1.0:
            for slow in self._slow:
                slow.read()
        for client in self._dice.sample(self._clients, round(share * len(self._clients))):
            client.hold()

    def flap(self) -> None:
        """All come and go, and slow ones take nothing."""
        for slow in self._slow:
            slow.rest()
        for client in self._clients:
            client.flap()
            client.follow(self._journal)

    @property
    def absent(self) -> list[Client]:
        """Those who are not being told what happens."""
        return [client for client in (*self._clients, *self._slow) if not client.live]


def _selections(channels: Sequence[str], first: str, dice: Random) -> list[Selection]:
    """One or several, of which no two overlap on one connection (docs/protocol.md, on events of both)."""
    count = dice.choice(SEVERAL)
    if dice.random() > WHOLE and not first.startswith("weather/"):
        return [(first, f"k{key}") for key in dice.sample(range(KEYS), count)]
    others = dice.sample([each for each in channels if each != first], count - 1)
    return [(channel, None) for channel in (first, *others)]


def _moved(observer: Observer, journal: Journal) -> Observer:
    if observer.key is None or (key := journal.current(observer.channel, observer.key)) == observer.key:
        return observer
    return observer.of(key)


def _mode(dice: Random) -> Mode:
    return "latest" if dice.random() < LATEST else "all"


class SlowReader(Client):
    """Subscribes over a WebSocket with a small buffer and takes nothing until it is told to `read`.

    From then on it takes all that waits, and comes back where it was cut; always held.
    """

    def __init__(self, stage: Reachable, observer: Observer, dice: Random) -> None:
        super().__init__(stage, [observer], dice)
        self.observer = observer
        self._reading = asyncio.Event()
        self._held = True

    def read(self) -> None:
        self._reading.set()

    def rest(self) -> None:
        """Leave, come back, and take nothing again."""
        self._reading.clear()
        self._leave_after(0)

    def _conversation(self, transport: str, address: str) -> Conversation:
        return Conversation("ws-json", address, self.observers, reading=self._reading)
