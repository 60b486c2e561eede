"""Round by round: writers write, clients come and go, a fault strikes and is lifted, and then all must be right.

A fault strikes in two ways: with writes going on, which finds gaps and regressions, and with writes stopped at it,
which finds what stays stale for ever, as no later event reveals it. In the end, and in the second kind from the fault
on, clients stay where they are: one that comes back would resume, and so hide what it was never told.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from random import Random
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ..config import History
from ..errors import StartError
from ..tasks import unless
from .checker import Observer, Violation
from .clients import Fleet
from .faults import CALM, FAULTS, Fault, NotStruck
from .ground import prepared
from .journal import Journal
from .outside import Doubt, Outside
from .report import Report, Round
from .stage import Stage
from .watch import Watch
from .writers import Writers

WARM = 0.8, 1.6  # seconds of writes before a fault
AFTER = 1.0  # seconds of writes after it, where they go on
HELD = 0.5  # of the clients stay where they are from a fault on at which writes stop
HEALED = 5.0  # seconds that it may take after a fault until all is right again (docs/guarantees.md)
PATIENCE = 30.0  # seconds after which a client that is not right never will be
LOOK = 0.05  # seconds between two looks

T = TypeVar("T")
Items = Mapping[str, Any]
Say = Callable[[str], None]


class Plan(Struct, frozen=True):
    seed: int
    seconds: float
    clients: int = 24
    faults: tuple[str, ...] = ()  # none: all


async def run(opening: AbstractAsyncContextManager[Stage], plan: Plan, say: Say, stop: asyncio.Event) -> Report:
    """Until the time is over (the round that is on is finished), a promise is broken, or it is to `stop`.

    Raises StartError, also where it is to stop before it has begun.
    """
    async with AsyncExitStack() as stack:
        stage = await _begun(stop, stack.enter_async_context(opening))
        watch = Watch(stage)
        stack.callback(watch.close)
        ways = await _begun(stop, stack.enter_async_context(prepared(stage, watch, say)))
        return await Run(stage, plan, ways, watch, say).all(stop)


async def _begun(stop: asyncio.Event, opening: Coroutine[Any, Any, T]) -> T:
    opened = await unless(stop, opening)
    if opened is None:
        raise StartError("stopped before anything was verified")
    return opened


class Run:
    def __init__(self, stage: Stage, plan: Plan, ways: Sequence[Outside], watch: Watch, say: Say) -> None:
        self._stage, self._plan, self._say = stage, plan, say
        self._dice = Random(plan.seed)  # noqa: S311
        self._began = time.monotonic()
        self._journal = Journal(self._elapsed, History().events if stage.owned else 0)
        self._report = Report(plan.seed, nodes=len(stage.nodes), clients=plan.clients)
        self._outside = ways
        self._writers = Writers(stage, self._journal, ways, self._dice, self._report.violations.append)
        self._fleet = Fleet(stage, self._journal, plan.clients, self._dice, self._report.violations.append)
        self._watch = watch

    async def all(self, stop: asyncio.Event) -> Report:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._writers.close)
            stack.push_async_callback(self._fleet.close)
            await self._watch.before()
            self._fleet.open()
            await self._rounds(stop)
            await self._fleet.close()
            if not stop.is_set() and not self._report.violations:
                self._report.violations += await self._watch.left_over()
        self._sum_up()
        return self._report

    async def _rounds(self, stop: asyncio.Event) -> None:
        for fault, writing in self._schedule():
            if not await unless(stop, self._round(fault, writing)):  # what it broke is mended all the same
                break
            if self._report.violations or self._elapsed() > self._plan.seconds:
                break

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

    async def _round(self, fault: Fault, writing: bool) -> bool:
        """To its end."""
        done = Round(fault.name, writing)
        before = len(self._report.violations)
        self._say(f"{self._elapsed():6.0f} s  {fault.name}, writes {'go on' if writing else 'stop'} …")
        self._fleet.flap()
        self._writers.start()
        await asyncio.sleep(self._dice.uniform(*WARM))
        async with self._watch.memory() as grown, self._watch.takeovers() as takeovers:
            done.idle = await self._strike(fault, writing)
            if writing:
                await asyncio.sleep(AFTER)
                await self._writers.stop()
            self._fleet.hold()
            done.healed = await self._healed()
        done.takeover = max(takeovers, default=None)
        self._settle(done.healed)
        await self._watch.look()
        self._report.violations += [*self._died(), *await self._unready(), *grown, *_late(fault, done)]
        done.violations = len(self._report.violations) - before
        self._report.rounds.append(done)
        self._say(f"{self._elapsed():6.0f} s  … {_outcome(done)}")
        return True

    def _died(self) -> Iterator[Violation]:
        try:
            self._stage.check()
        except StartError as error:
            yield Violation("I6", str(error))

    async def _unready(self) -> list[Violation]:
        """Also feeds that clients see nothing of at present have begun: one that does so later resets them then."""
        try:
            await self._stage.ready()
        except StartError as error:
            return [Violation("I4", str(error))]
        return []

    async def _strike(self, fault: Fault, writing: bool) -> str:
        """Why there was nothing to strike; empty where it struck."""
        self._journal.strike(fault.loses, fault.resets)
        try:
            async with fault.strike(self._stage, self._dice):
                if not writing:
                    self._fleet.hold(HELD)
                    await self._writers.stop()
                await asyncio.sleep(fault.hold)
        except NotStruck as idle:
            await self._writers.stop()
            return str(idle)
        except (TimeoutError, StartError) as error:
            said = f"{fault.name} did not strike, or was not lifted: {error}"
            self._report.violations.append(Violation("fault", said))
        return ""

    async def _healed(self) -> float | None:
        """Seconds until every client is live and right, and then a write to each channel is answered and heard by all.

        The write comes last: it would reveal, or overwrite, what was never told. None: not within `PATIENCE`.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._right()
                await self._writers.probe(self._fleet.keys)
                await self._right()
        except TimeoutError:
            self._report.violations += await self._wrong() or [Violation("I4", "a channel takes no writes by REST")]
            return None
        return time.monotonic() - began

    async def _right(self) -> None:
        while await self._wrong():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(LOOK)

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

    async def _wrong(self) -> list[Violation]:
        """Who is not live, or does not have what its store has."""
        stored = await self._stored()
        absent = [each.observers[0] for each in self._fleet.absent]
        wrong = [Violation("I4", "is not answered", each.name, each.channel, each.history) for each in absent]
        for observer in self._fleet.observers:
            if observer.channel not in stored:
                wrong.append(Violation("I4", "the store cannot be read", observer.name, observer.channel))
            elif difference := _difference(observer, stored[observer.channel]):
                wrong.append(Violation("I4", difference, observer.name, observer.channel, observer.history))
        return wrong

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
        self._report.memory = self._watch.most
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


def _late(fault: Fault, done: Round) -> Iterator[Violation]:
    if done.healed is not None and done.healed > HEALED:
        yield Violation("time", f"{fault.name} was healed after {done.healed:.1f} s, which is to take {HEALED:g} s")
    if fault.takeover is not None and done.takeover is not None and done.takeover > fault.takeover and not done.idle:
        said = f"a feed was without a holder for {done.takeover:.1f} s, which is to take {fault.takeover:g} s"
        yield Violation("time", f"{fault.name}: {said}")


def _outcome(done: Round) -> str:
    if done.violations:
        return f"{done.violations} violations"
    if done.idle:
        return f"did not strike: {done.idle}"
    took = f", taken over after {done.takeover:.1f} s" if done.takeover else ""
    return f"all right after {done.healed or 0:.1f} s{took}"
