"""The body of a lease: it runs for as long as the lease is held, and is cancelled when it is not.

Like `asyncio.timeout`, with the loss of a lease in place of the time: our cancellation becomes `LeaseLost`, somebody
else's stays what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from .base import LeaseLost


@asynccontextmanager
async def holding(loss: Coroutine[None, None, str], name: str) -> AsyncIterator[None]:
    """Runs the body beside `loss`, which returns when the lease is lost, and why."""
    body = asyncio.current_task()
    if body is None:
        raise RuntimeError("a lease is held by a task")
    cancelled_before = body.cancelling()
    watch = asyncio.create_task(loss, name=name)
    over = False

    def lose(_: asyncio.Task[str]) -> None:
        if not over:  # else the body has left on its own in the meantime
            body.cancel()

    watch.add_done_callback(lose)
    try:
        yield
    except asyncio.CancelledError:
        if watch.done() and body.uncancel() <= cancelled_before:
            raise LeaseLost(watch.result()) from None
        raise
    finally:
        over = True
        watch.cancel()
        await asyncio.wait([watch])
