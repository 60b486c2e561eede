"""What breaks comes back by itself, and nothing is missed without a word: held to what the store knows it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio
from msgspec import Raw

from realtime.client import Event, ProtocolError, Reset, Snapshot, Watch, connect
from realtime.handlers import websocket
from realtime.protocol import ANYHOW
from realtime.tasks import Tasks
from realtime.verify.proxy import Mode, Proxy
from tests.client.conftest import Node, Nodes
from tests.wait import until

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def proxy(node: Node) -> AsyncIterator[Proxy]:
    async with Proxy(("127.0.0.1", node.service.port)) as proxy:
        yield proxy


def through(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


async def write(node: Node, number: int, key: str = "attic") -> None:
    await node.store.put("rooms", key, Raw(str(number).encode()), ANYHOW)


async def heard(watch: Watch, last: int) -> list[int]:
    """The values of the events up to that one."""
    values: list[int] = []
    async with asyncio.timeout(20):
        while not values or values[-1] != last:
            event = await anext(watch)
            assert isinstance(event, Event), event
            values.append(event.value)
    return values


async def test_a_network_that_drops_costs_nothing(node: Node, proxy: Proxy) -> None:
    async def goes_on() -> None:
        for number in range(600):
            await write(node, number, f"k{number % 7}")
            await asyncio.sleep(0.002)

    async def drops() -> None:
        while True:
            await asyncio.sleep(0.1)
            proxy.reset()

    tasks = Tasks()
    async with connect(through(proxy)) as live:
        watch = live.watch("memory/rooms", mode="all")
        assert isinstance(await anext(watch), Snapshot)
        tasks.start(drops(), "drops")
        tasks.start(goes_on(), "goes on")
        try:
            assert await heard(watch, 599) == list(range(600))
        finally:
            await tasks.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_any_network_ends_well(node: Node, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Every event of every key to the one watch, the last values to the replica and to the one who wants the newest."""
    monkeypatch.setattr(websocket, "HEARTBEAT", 1)
    dice, tasks = Random(seed), Tasks()
    modes: list[Mode] = ["ok", "slow", "refuse", "blackhole", "deaf", "mute"]

    async def breaks() -> None:
        while True:
            proxy.mode = dice.choice(modes)
            await asyncio.sleep(dice.uniform(0, 0.8))
            proxy.mode = "ok"
            if dice.random() < 0.5:
                proxy.reset()
            await asyncio.sleep(dice.uniform(0, 0.8))

    async def follow(watch: Watch, into: list[int]) -> None:
        async for message in watch:
            into += [message.value] if isinstance(message, Event) else []

    async with connect(through(proxy)) as live:
        everything: list[int] = []
        newest: list[int] = []
        rooms = await live.replica("memory/rooms")
        for mode, into in (("all", everything), ("latest", newest)):
            watch = live.watch("memory/rooms", mode=mode)  # type: ignore[arg-type]
            await anext(watch)
            tasks.start(follow(watch, into), "follow")
        tasks.start(breaks(), "breaks")
        for number in range(800):
            await write(node, number, f"k{number % 7}")
            await asyncio.sleep(0.01)
        await until(lambda: bool(everything) and everything[-1] == 799, 40)
        await until(lambda: bool(newest) and newest[-1] == 799, 40)
        await until(lambda: rooms.get("k1") == 799, 40)
        await tasks.close()
        assert everything == list(range(800))
        assert dict(rooms) == {f"k{number % 7}": number for number in range(793, 800)}
        assert newest == sorted(set(newest))


async def test_what_the_history_does_not_have_is_a_visible_reset(run_node: Nodes) -> None:
    async with (
        run_node(history=5) as node,
        Proxy(("127.0.0.1", node.service.port)) as proxy,
        connect(through(proxy)) as live,
    ):
        watch = live.watch("memory/rooms")
        await anext(watch)
        proxy.mode = "refuse"
        proxy.reset()
        for number in range(20):
            await write(node, number)
        await until(lambda: live.state == "reconnecting")
        proxy.mode = "ok"
        reset = await anext(watch)
        assert isinstance(reset, Reset)
        assert (reset.items, reset.reason) == ({"attic": 19}, "trimmed")
        await write(node, 20)
        assert await heard(watch, 20) == [20]


@pytest.mark.expects_logs
async def test_a_history_that_breaks_while_it_is_live_is_one(node: Node) -> None:
    async with connect(node.address) as live:
        watch = live.watch("memory/rooms")
        await anext(watch)
        [lease] = node.broker._leases
        await lease.renew(["rooms"], "the test says so")
        reset = await anext(watch)
        assert isinstance(reset, Reset)
        assert (reset.items, reset.reason) == ({}, "epoch")


async def test_a_node_that_restarts(run_node: Nodes) -> None:
    """Says so (1012), and is back at its address, with a log that is new: the client is told."""
    async with run_node() as node:
        port = node.service.port
        live = connect(node.address)
        await live.__aenter__()
        watch, rooms = live.watch("memory/rooms"), await live.replica("memory/other")
        await anext(watch)
        await node.service.drain()
    await until(lambda: live.state == "reconnecting")
    async with run_node(port=port) as node:
        await write(node, 1)
        reset = await anext(watch)
        assert isinstance(reset, Reset)
        assert reset.reason == "epoch"
        await node.store.put("other", "attic", Raw(b"2"), ANYHOW)
        await rooms.changed()
        assert dict(rooms) == {"attic": 2}
        await live.__aexit__()


async def test_silence_is_news(node: Node, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT", 1)
    async with connect(through(proxy)) as live:
        watch = live.watch("memory/rooms", mode="all")
        await anext(watch)
        async with asyncio.timeout(1.9):
            await write(node, 0)
            assert await heard(watch, 0) == [0]
        proxy.mode = "blackhole"  # nobody says that it is gone
        await write(node, 1)
        async with asyncio.timeout(4):
            await until(lambda: live.state == "reconnecting")
        proxy.mode = "ok"
        proxy.reset()
        await write(node, 2)
        assert await heard(watch, 2) == [1, 2]


async def test_a_quiet_line_is_kept(node: Node, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT", 1)
    async with connect(through(proxy)) as live:
        rooms = await live.replica("memory/rooms")
        connection = proxy.connections
        states = live.states()
        assert await anext(states) == "live"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(states), 3)  # heartbeats in which nothing happens
        assert (proxy.connections, len(rooms)) == (connection, 0)


async def test_states(node: Node, proxy: Proxy) -> None:
    seen: list[str] = []
    live = connect(through(proxy))

    async def look() -> None:
        async for state in live.states():
            seen.append(state)  # noqa: PERF401 - each as it comes

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        async with live:
            await until(lambda: seen == ["idle"])
            proxy.mode = "refuse"
            rooms = live.replica("memory/rooms")
            await until(lambda: seen[-1] == "connecting")
            proxy.mode = "ok"
            await rooms
            await until(lambda: seen[-1] == "live")
            proxy.mode = "refuse"
            proxy.reset()
            await until(lambda: seen[-1] == "reconnecting")
            proxy.mode = "ok"
            await until(lambda: seen[-1] == "live")
    assert seen[-1] == "closed"


async def test_an_address_that_is_wrong_is_given_up(node: Node) -> None:
    async with connect(node.address + "/nothing/here") as live:
        with pytest.raises(ProtocolError, match="404"):
            await anext(live.watch("memory/rooms"))
        with pytest.raises(ProtocolError, match="404"):
            await live.replica("memory/rooms")
