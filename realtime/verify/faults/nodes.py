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

from ..stage import FEEDS, STORES
from .base import NODES, Fault, NotStruck, Strike
from .network import cut

if TYPE_CHECKING:
    from ..stage import NodeProcess, Stage

OVER = 7.0  # seconds, after which a lease is, and another has had time to take it
STALL = 10.0  # seconds
JUMP = 3600.0  # seconds
KILLED, FROZEN = 1.0, 6.0  # seconds until another node has the feeds of such a one (docs/guarantees.md)
FIRES = 5.0  # seconds until a failpoint must have been reached
HELD = 10.0  # seconds until a feed must have a holder

Choose = Callable[["Stage", Random, str], Awaitable["NodeProcess"]]


# which node -----------------------------------------------------------------------------------------------------------


async def anyone(stage: Stage, dice: Random, store: str) -> NodeProcess:
    return dice.choice(stage.nodes)


async def holder(stage: Stage, dice: Random, store: str) -> NodeProcess:
    """Of the store's feed. Raises TimeoutError where it has none."""
    try:
        async with asyncio.timeout(HELD):
            while (found := await stage.holder(store)) is None or not found.up:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"nobody holds the feed of {store} for {HELD:g} s") from None
    return found


async def standby(stage: Stage, dice: Random, store: str) -> NodeProcess:
    """One that holds no feed. Raises NotStruck where there is none."""
    holders = [await stage.holder(each) for each in FEEDS]
    if not (others := [node for node in stage.nodes if node not in holders]):
        raise NotStruck("each node holds a feed")
    return dice.choice(others)


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
    """Dead by its own hand. Where nothing is written in time it does not get there, and is killed lest it still do."""

    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        store = dice.choice(STORES)
        node = await choose(stage, dice, store)
        async with restarting(node):
            node.tell(f"die {step} {store}")
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRES):
                    await node.died()
            if node.up:
                await node.kill()
                raise NotStruck(f"{node.name} never came to that step")
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
    store = dice.choice(STORES)
    node = await holder(stage, dice, store)
    before = await stage.lease(store)
    with cut([node.links["redis"]], "slow", delay=OVER - 1):
        yield
        if await stage.lease(store) == before:
            raise NotStruck(f"the lease of {store} was not taken from {node.name}")


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
    shuffled = dice.sample(stage.nodes, len(stage.nodes))
    ahead, behind = shuffled[0], shuffled[-1]
    ahead.tell(f"clock {JUMP:g}")
    behind.tell(f"clock {-JUMP:g}")
    try:
        yield
    finally:
        for node in (ahead, behind):
            node.tell("clock 0")


def _fault(name: str, text: str, strike: Strike, hold: float = 1.0, takeover: float | None = None) -> Fault:
    return Fault(name, text, strike, NODES, hold, takeover=takeover)


FAULTS = (
    _fault("node-kill", "a node is killed (-9), and started again", killed(anyone), takeover=KILLED),
    _fault("holder-kill", "the holder of a feed is killed (-9): a standby takes it", killed(holder), takeover=KILLED),
    _fault(
        "die-after-commit",
        "a node dies between a write's commit and its answer",
        dying("after-commit", anyone),
        takeover=KILLED,
    ),
    _fault(
        "die-before-append",
        "a holder dies with a change not yet in the log",
        dying("before-append", holder),
        takeover=KILLED,
    ),
    _fault(
        "die-after-append",
        "a holder dies before it keeps the mark of a change",
        dying("after-append", holder),
        takeover=KILLED,
    ),
    _fault(
        "die-in-transaction",
        "a holder dies with half of a batch in the log",
        dying("in-transaction", holder),
        takeover=KILLED,
    ),
    _fault("holder-frozen", "the holder of a feed is frozen for longer than its lease", frozen(holder), OVER, FROZEN),
    _fault("node-frozen", "a node that holds no feed is frozen", frozen(standby), OVER),
    _fault("two-holders", "a holder's words reach Redis late, when another is the holder", two_holders, OVER),
    _fault("rolling-restart", "one node after the other drains, ends, and is started again", rolling_restart),
    _fault("all-nodes-kill", "all nodes are killed (-9) at once, and started again", all_killed),
    _fault("event-loop-stall", "a node's event loop stands still for 10 s", stalled, STALL),
    _fault("clock-jump", "one node's clock is an hour ahead, another's an hour behind", clocks_jumped),
)
