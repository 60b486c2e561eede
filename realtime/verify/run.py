"""Round by round: writers write, clients come and go, a fault strikes and is lifted, and then all must be right.

A fault strikes in two ways: with writes going on, which finds gaps and regressions, and with writes stopped at it,
which finds what stays stale for ever, as no later event reveals it. In the end, and in the second kind from the fault
on, clients stay where they are: one that comes back would resume, and so hide what it was never told.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import StartError
from .checker import Journal, Observer, Violation
from .clients import Fleet
from .faults import CALM, FAULTS, Fault
from .outside import Doubt, Outside, outside
from .report import Report, Round
from .stage import Stage
from .watch import Watch
from .writers import Writers

WARM = 0.8, 1.6  # seconds of writes before a fault
AFTER = 1.0  # seconds of writes after it, where they go on
HELD = 0.5  # of the clients stay where they are from a fault on at which writes stop
PATIENCE = 30.0  # seconds after which a client that is not right never will be
LOOK = 0.05  # seconds between two looks

Items = Mapping[str, Any]
Say = Callable[[str], None]


class Plan(Struct, frozen=True):
    seed: int
    seconds: float
    clients: int = 24
    faults: tuple[str, ...] = ()  # none: all


async def run(stage: Stage, plan: Plan, say: Say, stop: asyncio.Event) -> Report:
    """Until the time is over (the round that is on is finished), a promise is broken, or it is to `stop`."""
    return await Run(stage, plan, say).all(stop)


class Run:
    def __init__(self, stage: Stage, plan: Plan, say: Say) -> None:
        self._stage, self._plan, self._say = stage, plan, say
        self._dice = Random(plan.seed)  # noqa: S311
        self._began = time.monotonic()
        self._journal = Journal(self._elapsed)
        self._report = Report(plan.seed, nodes=len(stage.nodes), clients=plan.clients)
        self._outside = outside(stage)
        self._writers = Writers(stage, self._journal, self._outside, self._dice, self._report.violations.append)
        self._fleet = Fleet(stage, self._journal, plan.clients, self._dice, self._report.violations.append)
        self._watch = Watch(stage)

    async def all(self, stop: asyncio.Event) -> Report:
        async with AsyncExitStack() as stack:
            stack.callback(self._watch.close)
            for each in self._outside:
                await each.open()
                stack.push_async_callback(each.close)
            if not self._stage.owned:
                stack.push_async_callback(self._leave)
            for each in self._outside:
                await self._make(each)
            stack.push_async_callback(self._writers.close)
            stack.push_async_callback(self._fleet.close)
            self._fleet.open()
            await self._rounds(stop)
            await self._fleet.close()
            if not stop.is_set():
                self._report.violations += await self._watch.left_over()
        self._sum_up()
        return self._report

    async def _make(self, each: Outside) -> None:
        try:
            await each.make()
        except Doubt as error:
            raise StartError(f"{self._stage.collection} cannot be made in {each.store}: {error}") from error

    async def _leave(self) -> None:
        """Remove the collection from somebody else's stores."""
        for each in self._outside:
            try:
                await each.drop()
            except Doubt as error:
                self._say(f"{each.store}/{self._stage.collection} could not be removed: {error}")
        for store in {*self._stage.stores} - {each.store for each in self._outside}:
            await self._watch.clear(f"{store}/{self._stage.collection}")
            self._say(f"{store}/{self._stage.collection} was emptied; without an address it cannot be removed")

    async def _rounds(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait(), name="stop")
        for fault, writing in self._schedule():
            working = asyncio.create_task(self._round(fault, writing), name=fault.name)
            try:
                await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                working.cancel()  # where it is not done: what it broke is mended all the same
                await asyncio.wait([working])
            if working.cancelled():
                break
            working.result()  # first of all: a round that crashed must not pass for the last one
            if self._report.violations or self._elapsed() > self._plan.seconds:
                break
        stopping.cancel()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _schedule(self) -> Iterator[tuple[Fault, bool]]:
        """Every fault in both ways, in an order of this seed, again and again."""
        given = self._stage.owned | {f"url:{name}" for name in self._stage.urls}
        wanted = [FAULTS[name] for name in self._plan.faults] or [each for each in FAULTS.values() if not each.long]
        for fault in wanted:
            if lacking := fault.needs - given:
                self._report.skipped[fault.name] = f"as it needs {' and '.join(sorted(lacking))}"
        rounds = [(fault, writing) for fault in wanted if not fault.needs - given for writing in (True, False)]
        rounds = rounds or [(CALM, True), (CALM, False)]
        while True:
            yield from self._dice.sample(rounds, len(rounds))

    # one round --------------------------------------------------------------------------------------------------------

    async def _round(self, fault: Fault, writing: bool) -> None:
        done = Round(fault.name, writing)
        before = len(self._report.violations)
        self._say(f"{self._elapsed():6.0f} s  {fault.name}, writes {'go on' if writing else 'stop'} …")
        for store in fault.loses:
            self._journal.forgive(store)
        self._fleet.flap()
        self._writers.start()
        await asyncio.sleep(self._dice.uniform(*WARM))
        async with self._watch.takeovers() as takeovers:
            await self._strike(fault, writing)
            if writing:
                await asyncio.sleep(AFTER)
                await self._writers.stop()
            self._fleet.hold()
            done.healed = await self._healed()
        done.takeover = max(takeovers, default=None)
        self._settle(done.healed)
        self._report.violations += [*self._died(), *await self._watch.look()]
        done.violations = len(self._report.violations) - before
        self._report.rounds.append(done)
        self._say(f"{self._elapsed():6.0f} s  … {_outcome(done)}")

    def _died(self) -> Iterator[Violation]:
        try:
            self._stage.check()
        except StartError as error:
            yield Violation("I6", str(error))

    async def _strike(self, fault: Fault, writing: bool) -> None:
        try:
            async with fault.strike(self._stage, self._dice):
                if not writing:
                    self._fleet.hold(HELD)
                    await self._writers.stop()
                await asyncio.sleep(fault.hold)
        except (TimeoutError, StartError) as error:
            said = f"{fault.name} did not strike, or was not lifted: {error}"
            self._report.violations.append(Violation("fault", said))

    async def _healed(self) -> float | None:
        """Seconds until every client has what its store has."""
        began = time.monotonic()
        wrong: list[Violation] = []
        while (elapsed := time.monotonic() - began) < PATIENCE:
            wrong = [*self._wrong(await self._stored())]
            if not wrong:
                return elapsed
            await asyncio.sleep(LOOK)
        self._report.violations += wrong
        return None

    async def _stored(self) -> dict[str, Items]:
        """By channel, what the stores themselves have; of one that others cannot read, what a node reads."""
        stored: dict[str, Items] = {}
        for each in self._outside:
            try:
                stored[f"{each.store}/{self._stage.collection}"] = await each.read()
            except Doubt:
                continue  # a client cannot be said to be right then
        for channel in {each.channel for each in self._fleet.observers} - stored.keys():
            if (items := await self._watch.read(channel)) is not None:
                stored[channel] = items
        return stored

    def _wrong(self, stored: Mapping[str, Items]) -> Iterator[Violation]:
        for observer in self._fleet.observers:
            if observer.channel not in stored:
                yield Violation("I4", "the store cannot be read", observer.name, observer.channel)
            elif difference := _difference(observer, stored[observer.channel]):
                yield Violation("I4", difference, observer.name, observer.channel, observer.history)

    def _settle(self, healed: float | None) -> None:
        if healed is not None:
            for observer in self._fleet.observers:
                observer.settle()
        self._journal.settle()

    def _sum_up(self) -> None:
        heard: Counter[str] = sum((each.counts for each in self._fleet.observers), Counter())
        self._report.counts = {
            "written": dict(self._writers.writes),
            "conversations": dict(self._fleet.conversations),
            "heard": dict(heard),
            "counted by the nodes": self._watch.counts(),
        }
        self._report.memory = self._watch.memory
        self._report.seconds = self._elapsed()


def _difference(observer: Observer, stored: Items) -> str:
    """The first few keys of which a client has something else than the store; empty where there are none."""
    shown = {key: msgspec.json.decode(value) for key, value in observer.replica.items.items()}
    expected = {key: value for key, value in stored.items() if observer.key in (None, key)}
    keys = [key for key in sorted(shown.keys() | expected.keys()) if shown.get(key) != expected.get(key)]
    parts = [f"{key} is {_short(shown.get(key))}, stored is {_short(expected.get(key))}" for key in keys[:3]]
    return f"{len(keys)} keys differ: {'; '.join(parts)}" if keys else ""


def _short(value: Any) -> str:
    text = "nothing" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}…"


def _outcome(done: Round) -> str:
    if done.violations:
        return f"{done.violations} violations"
    took = f", taken over after {done.takeover:.1f} s" if done.takeover else ""
    return f"all right after {done.healed or 0:.1f} s{took}"
