"""The body of a lease that ends in the very moment in which the lease is lost."""

from __future__ import annotations

import asyncio

import pytest

from realtime.brokers.base import LeaseLost
from realtime.brokers.hold import holding

pytestmark = pytest.mark.asyncio


class Broken(Exception):
    pass


async def hold(turns: int, *, breaks: bool) -> None:
    """The body ends so many turns of the loop after the lease was lost."""
    lost = asyncio.get_running_loop().create_future()

    async def loss() -> str:
        await lost
        return "robbed"

    async with holding(loss(), "lease"):
        asyncio.get_running_loop().call_soon(lost.set_result, None)
        for _ in range(turns):
            await asyncio.sleep(0)
        if breaks:
            raise Broken


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("turns", range(6))
async def test_a_body_that_leaves_while_the_lease_is_lost_is_not_cancelled(turns: int, breaks: bool) -> None:
    """Else its task would end as if its owner had cancelled it, and nobody would run the feed."""
    body = asyncio.create_task(hold(turns, breaks=breaks))
    await asyncio.wait([body])
    assert not body.cancelled()
    assert body.cancelling() == 0 or isinstance(body.exception(), LeaseLost)
    assert isinstance(body.exception(), (LeaseLost, Broken if breaks else type(None)))


async def test_a_body_that_stays_is_told_of_the_loss() -> None:
    with pytest.raises(LeaseLost, match="robbed"):
        await hold(100, breaks=False)


async def test_somebody_elses_cancellation_stays_what_it_is() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    entered = asyncio.Event()

    async def body() -> None:
        async with holding(never(), "lease"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
