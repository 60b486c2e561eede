"""Faults of the nodes: killed, dead at a chosen step, frozen, stalled, restarted, or with a wrong clock.

A holder that dies lets go of Redis at once, and another node takes its feed; one that is frozen keeps it until its
lease is over, and wakes up late. The steps are those at which a crash could lose a change or tell it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

from .base import NODES, Fault, Strike
from .network import cut

if TYPE_CHECKING:
    from ..stage import NodeProcess, Stage

WRITTEN = ("postgres", "mongo", "redis")
FEEDS = (*WRITTEN, "weather")

LONGER_THAN_A_LEASE = 7.0  # seconds
STALL = 10.0  # seconds
JUMP = 3600.0  # seconds
FIRES = 5.0  # seconds until a failpoint must have been reached
HELD = 10.0  # seconds until a feed must have a holder

Choose = Callable[["Stage", Random, str], Awaitable["NodeProcess"]]


# which node -----------------------------------------------------------------------------------------------------------


async def anyone(stage: Stage, dice: Random, store: str) -> NodeProcess:
    return dice.choice(stage.nodes)


async def holder(stage: Stage, dice: Random, store: str) -> NodeProcess:
    """Of the store's feed."""
    async with asyncio.timeout(HELD):
        while (found := await stage.holder(store)) is None or not found.up:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.02)
    return found


async def standby(stage: Stage, dice: Random, store: str) -> NodeProcess:
    """One that holds no feed, if there is one."""
    holders = [await stage.holder(each) for each in FEEDS]
    return dice.choice([node for node in stage.nodes if node not in holders] or stage.nodes)


# what happens to it ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def restarting(*nodes: NodeProcess) -> AsyncIterator[None]:
    """In the end they are up again."""
    try:
        yield
    finally:
        await asyncio.gather(*(node.start() for node in nodes if not node.up))


def killed(choose: Choose) -> Strike:
    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        node = await choose(stage, dice, dice.choice(FEEDS))
        async with restarting(node):
            await node.kill()
            yield

    return strike


def dying(step: str, choose: Choose) -> Strike:
    """Dead by its own hand. Where nothing is written in time, it never gets there, and is killed where it is."""

    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        store = dice.choice(WRITTEN)
        node = await choose(stage, dice, store)
        async with restarting(node):
            node.tell(f"die {step} {store}")
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRES):
                    await node.died()
            if node.up:
                await node.kill()
            yield

    return strike


def frozen(choose: Choose) -> Strike:
    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        node = await choose(stage, dice, dice.choice(FEEDS))
        node.freeze()
        try:
            yield
        finally:
            node.thaw()

    return strike


@asynccontextmanager
async def two_holders(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """What a holder sends to Redis arrives when its lease is over and another's."""
    node = await holder(stage, dice, dice.choice(WRITTEN))
    with cut([node.links["redis"]], "slow", delay=LONGER_THAN_A_LEASE - 1):
        yield


@asynccontextmanager
async def rolling_restart(stage: Stage, dice: Random) -> AsyncIterator[None]:
    """The last one is away while the fault is on."""
    *others, last = stage.nodes
    for node in others:
        async with restarting(node):
            await node.stop()
        await stage.ready()
    async with restarting(last):
        await last.stop()
        yield


@asynccontextmanager
async def all_killed(stage: Stage, dice: Random) -> AsyncIterator[None]:
    async with restarting(*stage.nodes):
        await asyncio.gather(*(node.kill() for node in stage.nodes))
        yield


@asynccontextmanager
async def stalled(stage: Stage, dice: Random) -> AsyncIterator[None]:
    dice.choice(stage.nodes).tell(f"stall {STALL:g}")
    yield


@asynccontextmanager
async def clocks_jumped(stage: Stage, dice: Random) -> AsyncIterator[None]:
    ahead, *_, behind = dice.sample(stage.nodes, len(stage.nodes))
    ahead.tell(f"clock {JUMP:g}")
    behind.tell(f"clock {-JUMP:g}")
    try:
        yield
    finally:
        for node in (ahead, behind):
            node.tell("clock 0")


FAULTS = (
    Fault("node-kill", "a node is killed (-9), and started again", killed(anyone), NODES),
    Fault("holder-kill", "the holder of a feed is killed (-9): a standby takes it", killed(holder), NODES),
    Fault(
        "die-after-commit", "a node dies between a write's commit and its answer", dying("after-commit", anyone), NODES
    ),
    Fault(
        "die-before-append",
        "a holder dies with a change read and not yet in the log",
        dying("before-append", holder),
        NODES,
    ),
    Fault(
        "die-after-append",
        "a holder dies with a change in the log and its mark not kept",
        dying("after-append", holder),
        NODES,
    ),
    Fault(
        "die-in-transaction", "a holder dies with half of a batch in the log", dying("in-transaction", holder), NODES
    ),
    Fault(
        "holder-frozen",
        "the holder of a feed is frozen for 7 s, longer than its lease",
        frozen(holder),
        NODES,
        hold=LONGER_THAN_A_LEASE,
    ),
    Fault(
        "node-frozen", "a node that holds no feed is frozen for 7 s", frozen(standby), NODES, hold=LONGER_THAN_A_LEASE
    ),
    Fault(
        "two-holders",
        "what the holder of a feed tells Redis arrives 6 s late, when another is the holder",
        two_holders,
        NODES,
        hold=LONGER_THAN_A_LEASE,
    ),
    Fault("rolling-restart", "one node after the other drains, ends, and is started again", rolling_restart, NODES),
    Fault("all-nodes-kill", "all nodes are killed (-9) at once, and started again", all_killed, NODES),
    Fault("event-loop-stall", "a node's event loop stands still for 10 s", stalled, NODES, hold=STALL),
    Fault(
        "clock-jump",
        "one node's clock is an hour ahead, another's an hour behind, then both are right",
        clocks_jumped,
        NODES,
    ),
)
