"""Background tasks: how they end."""

from __future__ import annotations

import asyncio
import gc
import warnings
from itertools import islice

import pytest

from realtime.tasks import Tasks, delays, unless

pytestmark = pytest.mark.asyncio


async def test_a_task_that_is_cancelled_before_its_first_step_says_nothing() -> None:
    async def work() -> None:
        raise AssertionError("it has not had its turn")

    tasks = Tasks()
    gc.collect()  # what tests before this one threw away says what it has to say now
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        task = tasks.start(work(), "work")
        await tasks.close()
        assert task.cancelled()
        del task
        gc.collect()  # "coroutine was never awaited" comes when it is thrown away
    assert [str(each.message) for each in said] == []


@pytest.mark.expects_logs
async def test_a_task_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("odd")

    tasks = Tasks()
    await asyncio.wait([tasks.start(work(), "the work")])
    assert [record.getMessage() for record in caplog.records] == ["the work died"]
    await tasks.close()


async def test_whoever_waits_for_a_server_is_there_a_second_after_it() -> None:
    pauses = list(islice(delays(), 1000))
    assert pauses[0] <= 0.1
    assert max(pauses) <= 1
    assert len({pause for pause in pauses if pause >= 0.5}) > 900  # not all nodes at once


async def test_unless() -> None:
    stop, ended = asyncio.Event(), asyncio.Event()

    async def work(seconds: float) -> int:
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.sleep(0)
            ended.set()
        return 7

    assert await unless(stop, work(0)) == 7
    ended.clear()
    asyncio.get_running_loop().call_soon(stop.set)
    assert await unless(stop, work(3600)) is None
    assert ended.is_set()


async def test_unless_it_fails() -> None:
    async def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await unless(asyncio.Event(), fail())
