"""Clients that take too little, on real sockets: nobody else notices, the node keeps little for them, and they heal."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import websockets
from msgspec import Raw
from tornado.httpclient import AsyncHTTPClient
from tornado.simple_httpclient import HTTPStreamClosedError

from realtime.app import Service
from realtime.brokers.base import Broker
from realtime.brokers.memory import MemoryBroker
from realtime.config import Config
from realtime.handlers.door import PORTION, Awaiting, Conversation
from realtime.handlers.outlet import Outlet
from realtime.protocol import ANYHOW, Mode, Pong
from realtime.rights import EVERYTHING
from realtime.session import MAX_PENDING
from realtime.stores.memory import MemoryStore
from tests.cluster import address
from tests.handlers.test_live import Stream
from tests.wait import until
from tests.watcher import Watcher, _narrow, watching

pytestmark = pytest.mark.asyncio

CHANNEL = "memory/rooms"
KEYS, ROUNDS, PAD = 10, 50, "x" * 16_000  # 8 MB, of which the newest values are 160 kB


@asynccontextmanager
async def serving(broker: Broker) -> AsyncIterator[Service]:
    """A node on a store in memory, which is fed."""
    service = Service(Config(port=0, drain=2), broker, [MemoryStore("memory")], "node-1")
    try:
        await service.open()
        await until(lambda: service.feeds[0].running)
        yield service
    finally:
        await service.close()


def kept(service: Service) -> int:
    """Bytes that wait for the one session for which most do: in its queue, and behind its socket."""
    return max(each.session.size + behind(each) for each in service.door._open)


def behind(conversation: Conversation) -> int:
    assert isinstance(conversation, Outlet)
    return len(conversation._stream._write_buffer or ())


async def test_those_who_never_read_cost_little_stall_nobody_and_heal() -> None:
    async with serving(MemoryBroker(history=100_000)) as service:
        modes: tuple[Mode, ...] = "all", "latest", "all", "all"
        quick, latest, every, _ = watchers = [Watcher(lambda: address(service), CHANNEL, mode=mode) for mode in modes]
        for slow in watchers[1:]:
            slow.reading.clear()
        async with watching(*watchers):
            await until(lambda: service.metrics.subscriptions._value.get() == 4)
            for number in range(1, ROUNDS + 1):
                for key in map(str, range(KEYS)):
                    value = b'{"n":%d,"pad":"%s"}' % (number, PAD.encode())
                    await service.node.items.put(EVERYTHING, CHANNEL, key, Raw(value), ANYHOW)
                async with asyncio.timeout(2):
                    await until(lambda: quick.observer.counts["event"] == number * KEYS)  # noqa: B023
                assert kept(service) < 2 * MAX_PENDING + 100_000  # waiting, and handed to the socket
            assert service.metrics.slow._value.get() == 2
            assert service.metrics.conflated._value.get() > 0
            newest = {str(key): {"n": ROUNDS, "pad": PAD} for key in range(KEYS)}
            for slow in (latest, every):
                slow.reading.set()
                await until(lambda: slow.items == newest)  # noqa: B023
            assert (latest.closed, every.closed) == ([], [4008])
            assert latest.observer.counts["event"] < ROUNDS * KEYS
            assert every.observer.counts["event"] == ROUNDS * KEYS
            assert every.observer.counts["resume"] == 1
            await until(lambda: service.metrics.connections.labels("websocket")._value.get() == 3)  # it was let go
            assert [each.wrong for each in watchers] == [[], [], [], []]


@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_a_stream_that_is_not_read_costs_little_and_heals(form: str) -> None:
    """It is spared what newer events of a key follow, and its last cursor is that of the last event."""
    async with serving(MemoryBroker()) as service:
        reader, writer = await asyncio.open_connection(sock=await _narrow(address(service)), limit=1 << 12)
        accept, query = ("text/event-stream", "") if form == "sse" else ("*/*", "?stream=ndjson")
        writer.write(f"GET /v1/{CHANNEL}{query} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode())
        await until(lambda: service.metrics.subscriptions._value.get() == 1)
        [conversation] = service.door._open
        assert isinstance(conversation, Awaiting)
        subscriptions = conversation.session.subscriptions
        await until(lambda: subscriptions[0].line is None)  # else the first events may be in its snapshot
        for number in range(1, ROUNDS + 1):
            for key in map(str, range(KEYS)):
                value = b'{"n":%d,"pad":"%s"}' % (number, PAD.encode())
                await service.node.items.put(EVERYTHING, CHANNEL, key, Raw(value), ANYHOW)
            published = service.metrics.published.labels("memory")
            await until(lambda: published._value.get() == number * KEYS)  # noqa: B023
            behind = len(conversation.stream._write_buffer)
            assert conversation.session.size + behind < KEYS * 17_000 + 2 * PORTION
        events = dict[str, dict[str, Any]]()
        heard = 0
        async for event in events_of(reader):
            assert event["value"]["n"] > events.get(event["key"], {"value": {"n": 0}})["value"]["n"]
            events[event["key"]], heard = event, heard + 1
            if [each["value"]["n"] for each in events.values()] == [ROUNDS] * KEYS:
                break
        assert service.metrics.conflated._value.get() == ROUNDS * KEYS - heard > 0
        assert service.metrics.slow._value.get() == 0
        assert event["cursor"] == str(conversation.session.subscriptions[0].cursor)
        writer.close()


async def events_of(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Of a stream of either form."""
    rest = b""
    while True:
        async with asyncio.timeout(10):
            *lines, rest = (rest + await reader.read(1 << 16)).split(b"\n")
        for line in lines:
            if b'"type":"event"' in line:
                yield json.loads(line[line.index(b"{") :])


async def test_one_that_goes_while_it_is_written_to_is_not_complained_of() -> None:
    """The first write finds it gone, the next one fails at once; no failure is left for asyncio to complain of."""
    async with serving(MemoryBroker()) as service:
        client = await websockets.connect(address(service).replace("http", "ws") + "/v1/ws")
        await client.recv()
        [conversation] = service.door._open
        client.transport.abort()
        await asyncio.sleep(0)  # it is closed now, and this loop has not heard of it
        for _ in range(3):
            conversation.session.send(Pong())
        await until(lambda: not service.door._open)
        gc.collect()


# every way in which a client is spared or refused events is counted, and the client knows -----------------------------

FLOOD = 1500  # events of 1 kB, in one delivery: more than may wait


async def flood(service: Service, keys: int) -> dict[str, dict[str, object]]:
    """Returns what is then there."""
    items: dict[str, dict[str, object]] = {}
    for number in range(FLOOD):
        key, value = str(number % keys), {"n": number, "pad": "x" * 1000}
        items[key] = value
        await service.node.items.put(EVERYTHING, CHANNEL, key, Raw(msgspec.json.encode(value)), ANYHOW)
    return items


@asynccontextmanager
async def counted(service: Service, *, slow: int, conflated: int) -> AsyncIterator[None]:
    yield
    assert (service.metrics.slow._value.get(), service.metrics.conflated._value.get()) == (slow, conflated)


@pytest.mark.parametrize(
    ("mode", "keys", "spared", "closed"),
    [("latest", 1, FLOOD - 1, []), ("latest", FLOOD, 0, [4008]), ("all", 1, 0, [4008])],
)
async def test_too_much_for_a_websocket(mode: Mode, keys: int, spared: int, closed: list[int]) -> None:
    """It is given the newest value of each key, or told to come back, which it does, and goes on where it was."""
    async with serving(MemoryBroker(history=100_000)) as service, counted(service, slow=len(closed), conflated=spared):
        watcher = Watcher(lambda: address(service), CHANNEL, mode=mode)
        async with watching(watcher):
            items = await flood(service, keys)
            await until(lambda: watcher.items == items)
            assert (watcher.closed, watcher.wrong) == (closed, [])
            assert watcher.observer.counts["event"] == FLOOD - spared


@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_too_much_for_a_stream(form: str) -> None:
    """It ends without a farewell: EventSource comes back with the last id."""
    async with serving(MemoryBroker()) as service, counted(service, slow=1, conflated=0):
        accept, query, end = ("text/event-stream", "", b"\n\n") if form == "sse" else ("*/*", "?stream=ndjson", b"\n")
        http = AsyncHTTPClient(force_instance=True)
        stream = Stream(http, f"{address(service)}/v1/{CHANNEL}{query}", end, Accept=accept)
        await stream.block()
        await flood(service, FLOOD)
        with pytest.raises(HTTPStreamClosedError):
            await stream.end()
        http.close()


@pytest.mark.parametrize(("keys", "spared"), [(1, FLOOD - 1), (FLOOD, 0)])
async def test_too_much_for_a_poll(keys: int, spared: int) -> None:
    """It is answered with the newest value of each key, or told to begin anew."""
    async with serving(MemoryBroker()) as service, counted(service, slow=keys > 1, conflated=spared):
        url = f"{address(service)}/v1/{CHANNEL}?wait=10"
        http = AsyncHTTPClient()
        cursor = json.loads((await http.fetch(url)).body)["cursor"]
        asking = asyncio.ensure_future(http.fetch(f"{url}&cursor={cursor}", raise_error=False))
        await until(lambda: service.metrics.subscriptions._value.get() == 1)
        items = await flood(service, keys)
        answer = await asking
        said = json.loads(answer.body)
        if spared:
            assert [event["value"] for event in said["events"]] == [items["0"]]
        else:
            assert (answer.code, said["error"]["code"]) == (503, "too_slow")


async def test_what_is_no_longer_in_the_history() -> None:
    """Is counted, and said to whoever asks for it."""
    async with serving(MemoryBroker(history=5)) as service:
        url = f"{address(service)}/v1/{CHANNEL}?wait=10"
        http = AsyncHTTPClient()
        cursor = json.loads((await http.fetch(url)).body)["cursor"]
        await flood(service, 1)
        await until(lambda: service.metrics.published.labels("memory")._value.get() == FLOOD)
        said = json.loads((await http.fetch(f"{url}&cursor={cursor}")).body)
        assert (said["reason"], said["items"]["0"]["n"]) == ("trimmed", FLOOD - 1)
        assert service.metrics.resumes.labels("trimmed")._value.get() == 1
