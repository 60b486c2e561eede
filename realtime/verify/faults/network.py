"""Faults between the nodes and the stores: connections that are reset, or over which nothing, or half, or late passes.

What a black hole swallowed stays swallowed, and the connections that it had stay dead without an error, as behind a
router that forgot them: a node has to find that out by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import TYPE_CHECKING

from .base import NODES, Fault, Strike

if TYPE_CHECKING:
    from ..proxy import Mode, Proxy
    from ..stage import Stage

SILENCE = 4.0  # seconds, longer than a node waits for an answer
DELAY = 0.2  # seconds


@contextmanager
def cut(links: Collection[Proxy], mode: Mode, *, reset: bool = False, delay: float = DELAY) -> Iterator[None]:
    """Links that behave like this for a while. `refuse` is for new connections; `reset` ends those there are."""
    try:
        for link in links:
            link.mode, link.delay = mode, delay
            if reset:
                link.reset()
        yield
    finally:
        for link in links:
            link.mode = "ok"


def broken(store: str, mode: Mode) -> Strike:
    """Of one node, or of all."""

    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        nodes = dice.choice(([dice.choice(stage.nodes)], stage.nodes))
        with cut([node.links[store] for node in nodes], mode, reset=mode == "ok"):
            yield

    return strike


@asynccontextmanager
async def partitioned(stage: Stage, dice: Random) -> AsyncIterator[None]:
    with cut(dice.choice(stage.nodes).links.values(), "blackhole"):
        yield


# What, how long, and in words; `{}` is the store.
WAYS: dict[str, tuple[Mode, float, str]] = {
    "reset": ("ok", 1.0, "connections to {} are reset"),
    "blackhole": ("blackhole", SILENCE, "nothing passes between nodes and {}, and nothing is said"),
    "deaf": ("deaf", SILENCE, "nothing of what {} says reaches the nodes"),
    "mute": ("mute", SILENCE, "nothing of what the nodes say reaches {}"),
    "slow": ("slow", SILENCE, "all between nodes and {} is late by 0.2 s"),
}
TRIED = {"redis": tuple(WAYS), "postgres": ("reset", "blackhole"), "mongo": ("reset", "blackhole")}


def _faults() -> Iterator[Fault]:
    for store, names in TRIED.items():
        for name in names:
            mode, hold, text = WAYS[name]
            yield Fault(f"{store}-{name}", text.format(store.capitalize()), broken(store, mode), NODES, hold)
    yield Fault("partition", "a node reaches no store, and is not told so", partitioned, NODES, SILENCE)


FAULTS = tuple(_faults())
