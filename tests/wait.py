"""Waiting for a condition, the only way in which tests wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Look again and again; TimeoutError where it never holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for is somebody else's state, without an event
            await asyncio.sleep(0.001)
