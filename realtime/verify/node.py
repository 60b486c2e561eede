"""The program of a node under test: `realtime serve` on given servers, with failpoints that its standard input arms.

It ends at a signal as any node does, and when its input ends: then whoever leads it is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import AsyncExitStack

from .. import logs
from ..app import Service, broker_of, name_of, stores_of
from ..config import Config, load
from ..serve import address_of, signalled
from .failpoints import Failpoints

log = logging.getLogger("realtime.verify.node")


async def run(config: Config) -> None:
    name, urls, points = name_of(config), config.urls, Failpoints()
    broker = points.broker(broker_of(config, urls, name))
    stores = [each if each.read_only else points.store(each) for each in stores_of(config, urls)]
    async with AsyncExitStack() as stack:
        service = Service(config, broker, stores, name)
        stack.push_async_callback(service.close)
        await service.open()
        log.info("live at %s", address_of(service))
        stop = signalled()
        ends = [asyncio.create_task(stop.wait(), name="signal"), asyncio.create_task(_follow(points), name="commands")]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()
        for task in done:
            task.result()
        await service.drain()


async def _follow(points: Failpoints) -> None:
    """Until standard input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async for line in reader:
            points.take(line.decode().strip())
    finally:
        transport.close()


def main() -> None:
    logs.configure()
    asyncio.run(run(load({}, os.environ)))


if __name__ == "__main__":
    main()
