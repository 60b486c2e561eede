"""A node without feeds: its handlers and stores are those of any, but nothing is captured, logged or delivered.

What `writes` compares with: `python -m bench.quiet`, set like a node by its environment.
"""

from __future__ import annotations

import asyncio
import os

from bench.nodes import say
from realtime.app import Service
from realtime.config import load
from realtime.serve import address_of, signalled


async def main() -> None:
    config = load({}, os.environ)
    service = Service.of(config, config.urls)
    service.feeds.clear()
    await service.open()
    try:
        stop = signalled()
        say(f"live at {address_of(service)}/")
        await stop.wait()
    finally:
        await service.close()


if __name__ == "__main__":
    asyncio.run(main())
