"""Many watches of one connection: side by side, overlapping, slow, cancelled; and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from types import CoroutineType
from typing import Any

import pytest
from msgspec import Raw

from realtime.client import Event, Message, RealtimeError, Snapshot, Watch, connect, inbox
from realtime.config import Limits
from realtime.protocol import ANYHOW
from tests.client.conftest import Node, Nodes
from tests.wait import until

pytestmark = pytest.mark.asyncio


async def write(node: Node, number: int, key: str = "attic") -> None:
    await node.store.put("rooms", key, Raw(str(number).encode()), ANYHOW)


def events(messages: list[Message]) -> Iterator[tuple[str, object]]:
    return ((each.key, each.value) for each in messages if isinstance(each, Event))


async def taken(watch: Watch, last: object) -> list[Message]:
    """All up to the event with this value."""
    messages: list[Message] = []
    async with asyncio.timeout(20):
        while not (messages and isinstance(messages[-1], Event) and messages[-1].value == last):
            messages.append(await anext(watch))
    return messages


def connections(node: Node) -> int:
    return len(node.service.door._open)


async def test_all_watches_share_a_socket(node: Node) -> None:
    async with connect(node.address) as live:
        watches = [live.watch("memory/rooms", key=f"k{number}") for number in range(50)]
        await asyncio.gather(*map(anext, watches))
        assert (connections(node), node.sessions) == (1, 50)
        await write(node, 1, "k7")
        assert list(events(await taken(watches[7], 1))) == [("k7", 1)]


async def test_those_that_overlap_have_their_own(node: Node) -> None:
    async with connect(node.address) as live:
        everything, one, again = (live.watch("memory/rooms", key=key) for key in (None, "attic", None))
        slow = live.watch("memory/rooms", key="cellar", max_rate=1)
        for watch in (everything, one, again, slow):
            await anext(watch)
        assert connections(node) == 4
        await write(node, 1)
        for watch in (everything, one, again):
            assert list(events(await taken(watch, 1))) == [("attic", 1)]
        await again.aclose()
        await one.aclose()
        await slow.aclose()
        await until(lambda: connections(node) == 1)
        await write(node, 2)
        assert list(events(await taken(everything, 2))) == [("attic", 2)]


async def test_who_is_slow_gets_the_newest_of_each_key(node: Node) -> None:
    async with connect(node.address) as live:
        watch = live.watch("memory/rooms")
        await anext(watch)
        for number in range(5000):
            await write(node, number, f"k{number % 3}")
        await until(lambda: watch._inbox.cursor is not None and ".5000" in watch._inbox.cursor)
        assert len(watch._inbox) <= inbox.SLOW
        last = dict(events(await taken(watch, 4999)))
        assert last == {"k0": 4998, "k1": 4999, "k2": 4997}
        await write(node, 5000)
        assert list(events(await taken(watch, 5000))) == [("attic", 5000)]


@pytest.mark.parametrize("mode", ["all", "latest"])
async def test_what_does_not_fit_is_fetched_later(node: Node, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST", 50)
    async with connect(node.address) as live:
        watch = live.watch("memory/rooms", mode=mode)  # type: ignore[arg-type]
        await anext(watch)
        for number in range(200):
            await write(node, number, f"k{number}")
        await until(lambda: node.sessions == 0)
        assert len(watch._inbox) == 50
        assert live.state == "live"
        assert list(events(await taken(watch, 199))) == [(f"k{number}", number) for number in range(200)]
        await until(lambda: node.sessions == 1)


async def test_large_values_are_bounded_by_their_size(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST_BYTES", 100_000)
    async with connect(node.address) as live:
        watch = live.watch("memory/rooms", mode="all")
        await anext(watch)
        for number in range(20):
            await node.store.put("rooms", "attic", Raw(b'"%s%d"' % (b"x" * 20_000, number)), ANYHOW)
        await until(lambda: node.sessions == 0)
        assert len(watch._inbox) == 5
        assert len(await taken(watch, "x" * 20_000 + "19")) == 20


async def test_a_step_that_is_cancelled_loses_nothing(node: Node) -> None:
    async with connect(node.address) as live:
        watch = live.watch("memory/rooms", mode="all")
        await anext(watch)
        got = []
        for number in range(200):
            step = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            await write(node, number)
            for _ in range(number % 8):
                await asyncio.sleep(0)
            step.cancel()
            await asyncio.wait([step])
            if not step.cancelled():
                got.append(step.result())
        got += await taken(watch, 199) if not got or got[-1].value != 199 else []  # type: ignore[union-attr]
        assert [value for _, value in events(got)] == list(range(200))


@pytest.mark.expects_logs
async def test_what_is_refused_for_now_is_asked_for_again(node: Node) -> None:
    """The broker is away: no new subscription can start, and the client does not make that its user's affair."""
    async with connect(node.address) as live:
        await anext(live.watch("memory/rooms"))
        node.broker.wire.brokers.remove(node.broker)
        rooms = live.replica("memory/other")
        await until(lambda: next(iter(live._links))._selections._all["memory/other", None].tries > 2)
        assert live.state == "catching up"
        node.broker.wire.brokers.append(node.broker)
        assert dict(await rooms) == {}
        assert connections(node) == 1


async def test_more_than_may_be_asked_for_at_once_is_asked_for_in_time(run_node: Nodes) -> None:
    async with run_node(limits=Limits(subscribes=10)) as node, connect(node.address) as live:
        watches = [live.watch("memory/rooms", key=f"k{number}") for number in range(60)]  # forty may come at once
        async with asyncio.timeout(20):
            await asyncio.gather(*map(anext, watches))
        assert node.sessions == 60


async def test_nothing_stays_behind(node: Node) -> None:
    before, files = asyncio.all_tasks(), len(os.listdir("/proc/self/fd"))
    ours: set[str] = set()
    with pytest.raises(ExceptionGroup) as group:  # noqa: PT012 - all of it goes
        async with connect(node.address) as live, asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(_follow(live.watch("memory/rooms")), name="follower")
            await asyncio.gather(*(live.put("memory/rooms", "attic", number) for number in range(5)))
            await live.replica("memory/rooms", "attic")
            ours = {task.get_name() for task in asyncio.all_tasks() if _is_ours(task)}
            raise RuntimeError("in the middle")
    assert group.group_contains(RuntimeError)
    assert ours == {"follower", f"client link {node.address}", "client reads", "client writes"}
    await until(lambda: connections(node) == 0)
    gc.collect()
    await until(lambda: asyncio.all_tasks() == before)
    await until(lambda: len(os.listdir("/proc/self/fd")) == files)


async def test_who_iterates_when_it_is_closed_is_let_go(node: Node) -> None:
    async with connect(node.address) as live:
        task = asyncio.create_task(_follow(live.watch("memory/rooms")))
        rooms = await live.replica("memory/rooms")
        await until(lambda: node.sessions == 2 and live.state == "live")
    assert await task == 1
    with pytest.raises(RealtimeError, match="closed"):
        await rooms.changed()
    with pytest.raises(RealtimeError, match="closed"):
        await live.get("memory/rooms", "attic")
    with pytest.raises(RealtimeError, match="closed"):
        await anext(live.watch("memory/rooms"))


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """Not the node's, which is in the same loop."""
    coroutine = task.get_coro()
    there = isinstance(coroutine, CoroutineType) and "realtime/client" in coroutine.cr_code.co_filename
    return there or task.get_name().startswith(("follower", "client"))


async def _follow(watch: Watch) -> int:
    return len([message async for message in watch if isinstance(message, Snapshot)])
