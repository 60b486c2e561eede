"""The collection of a run in each store: made before it, and taken away from somebody else's stores behind it.

Whoever points a run at a cluster of theirs may name another server than the nodes have: then every client would seem to
be wrong. So what each node writes is looked for past it, once, before anything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from tornado.httpclient import AsyncHTTPClient

from ..config import VARIABLES
from ..errors import NotFound, Refused, StartError
from .outside import Doubt, Outside, outside
from .rest import Rest
from .stage import Stage
from .watch import Watch

LIVE = 20.0  # seconds until all nodes must know a new collection
LOOK = 0.1  # seconds between two tries
FIRST = "first"  # a key that no writer has

Say = Callable[[str], None]


@asynccontextmanager
async def prepared(stage: Stage, watch: Watch, say: Say) -> AsyncIterator[list[Outside]]:
    """The ways past the service, open, to a collection that each node knows. Raises StartError."""
    ways = outside(stage)
    async with AsyncExitStack() as stack:
        for each in ways:
            await each.open()
            stack.push_async_callback(each.close)
        if not stage.owned:
            stack.push_async_callback(_leave, stage, ways, watch, say)
        http = AsyncHTTPClient(force_instance=True)
        stack.callback(http.close)
        await asyncio.gather(*(_make(stage, each, http) for each in ways))
        yield ways


async def _make(stage: Stage, each: Outside, http: AsyncHTTPClient) -> None:
    channel, variable = f"{each.store}/{stage.collection}", VARIABLES[each.store]
    rest = Rest(stage, channel, http, Random(), waits=0.0)  # noqa: S311
    stage.names.add(FIRST)
    try:
        await each.make()
        await _live(rest)
        shared = FIRST in await each.read()
        await rest.delete(FIRST)
    except (Doubt, Refused, NotFound) as error:
        hint = "" if stage.owned else f" (is {variable} where the nodes have theirs?)"
        raise StartError(f"{channel} cannot be used: {error}{hint}") from error
    if not shared:
        raise StartError(f"{variable} is not where the nodes have theirs: what they write to {channel} is not there")


async def _live(rest: Rest) -> None:
    """Wait until each node writes to it and is told so: then its log has begun. Raises Doubt, or Refused."""
    end = time.monotonic() + LIVE
    while True:
        try:
            if await rest.heard(FIRST, {"n": 1, "by": "rest"}):
                return
            raise Doubt("a node is not told of what is written")
        except (Doubt, Refused):
            if time.monotonic() > end:
                raise
        await asyncio.sleep(LOOK)


async def _leave(stage: Stage, ways: Sequence[Outside], watch: Watch, say: Say) -> None:
    """Take the collection away from somebody else's stores."""
    for each in ways:
        try:
            await each.drop()
        except Doubt as error:
            say(f"{each.store}/{stage.collection} could not be removed: {error}")
    for store in {*stage.stores} - {each.store for each in ways}:
        emptied = await watch.clear(f"{store}/{stage.collection}")
        done = "was emptied" if emptied else "may not have been emptied, as no node answers"
        say(f"{store}/{stage.collection} {done}; without an address it cannot be removed")
