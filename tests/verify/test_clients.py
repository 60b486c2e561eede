"""Clients on real nodes: what they hear over each transport, what they resume, when they leave and when they stay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import msgspec
import pytest
import websockets
from tornado.httpclient import AsyncHTTPClient
from websockets.asyncio.server import ServerConnection, serve

from realtime.app import Service
from realtime.embedded import Embedded
from realtime.protocol import Mode
from realtime.stores.postgres import PostgresStore
from realtime.tasks import Tasks
from realtime.verify.checker import Observer, Violation
from realtime.verify.clients import Client, Fleet, SlowReader
from realtime.verify.connection import Defect, Ended
from realtime.verify.conversation import Conversation
from realtime.verify.journal import Journal
from realtime.verify.proxy import Proxy
from realtime.verify.transports import TRANSPORTS, converse
from tests.cluster import address, cluster
from tests.stores.pg import psql
from tests.verify.answers import HEAD, answering
from tests.wait import until

pytestmark = pytest.mark.asyncio

CHANNELS = ["postgres/things", "mongo/things", "redis/things"]
TABLE = 'CREATE TABLE things (key text PRIMARY KEY, n bigint, "by" text, pad text)'


class Things:
    """Two nodes with an empty collection `things` in each store: a stage for clients, and one who writes."""

    collection = "things"
    stores = ("postgres", "mongo", "redis")

    def __init__(self, nodes: Sequence[Service]) -> None:
        self.nodes = nodes
        self.violations: list[Violation] = []
        clock = asyncio.get_running_loop()
        self.journal = Journal(clock.time)

    def addresses(self) -> list[str]:
        return [address(node) for node in self.nodes]

    def observer(self, channel: str, key: str | None = None, mode: Mode = "all") -> Observer:
        return Observer(f"of {channel}", channel, key, mode, self.journal, self.violations.append)

    async def write(self, channel: str, key: str, pad: str = "") -> None:
        number = self.journal.issue(channel, key, "put")
        body = json.dumps({"n": number, "by": "test", "pad": pad})
        url = f"{address(self.nodes[0])}/v1/{channel}/{key}?wait=5"
        await AsyncHTTPClient().fetch(url, method="PUT", body=body)
        self.journal.ack(channel, key, number)

    async def stored(self, channel: str) -> dict[str, Any]:
        answer = await AsyncHTTPClient().fetch(f"{address(self.nodes[0])}/v1/{channel}?limit=1000")
        items: dict[str, Any] = json.loads(answer.body)["items"]
        return items

    async def told(self, observer: Observer, key: str = "k0") -> None:
        """Wait until it has what was written last."""

        def has() -> bool:
            return bool(shown(observer).get(key, {}).get("n") == self.journal.last(observer.channel, key))

        await until(has)

    def connections(self) -> int:
        samples = [
            each for node in self.nodes for metric in node.metrics.connections.collect() for each in metric.samples
        ]
        return round(sum(each.value for each in samples))


@asynccontextmanager
async def things(servers: Embedded) -> AsyncIterator[Things]:
    async with cluster(servers, detour=make_table) as nodes, asyncio.timeout(90):
        stage = Things(nodes)
        for channel in CHANNELS:
            await stage.write(channel, "k0")
        yield stage


async def make_table(urls: dict[str, str]) -> None:
    """Before there is a node: one that is tracked later begins with an epoch of its own."""
    await psql(urls["postgres"], TABLE)
    store = PostgresStore(urls["postgres"])
    await store.open()
    await store.track("things")
    await store.close()


@asynccontextmanager
async def talking(transport: str, where: str, *observers: Observer, politely: bool = True) -> AsyncIterator[None]:
    """A conversation that goes on until the block ends."""
    task = asyncio.create_task(converse(Conversation(transport, where, observers, politely=politely)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), task.exception()


def shown(observer: Observer) -> dict[str, Any]:
    return {key: msgspec.json.decode(value) for key, value in observer.replica.items.items()}


# transports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "selected",
    [[("redis/things", None)], [("postgres/things", "k0")], [("redis/things", None), ("mongo/things", None)],
     [("postgres/things", "k0"), ("postgres/things", "k1"), ("redis/things", None)]],
    ids=["a channel", "a key", "two channels", "two keys and a channel"],
)  # fmt: skip
async def test_one_cursor_goes_through_all_transports_and_nodes(
    servers: Embedded, selected: list[tuple[str, str | None]]
) -> None:
    """Over each it hears what it missed, and what comes; then it leaves, and misses something."""
    async with things(servers) as stage:
        observers = [stage.observer(*each) for each in selected]
        for turn, transport in enumerate([*TRANSPORTS, *reversed(list(TRANSPORTS))]):
            for observer in observers:
                await stage.write(observer.channel, observer.key or "k0")
                await stage.write(observer.channel, "other")
            async with talking(transport, stage.addresses()[turn % 2], *observers, politely=turn % 3 > 0):
                for observer in observers:
                    await stage.told(observer, observer.key or "k0")
                    await stage.write(observer.channel, observer.key or "k0")
                    await stage.told(observer, observer.key or "k0")
        for observer in observers:
            observer.settle()
            told = observer.counts
            assert (told["snapshot"], told["refused"], told["reset"]) == (1, 0, 0)
            assert told["resume"] >= 2 * len(TRANSPORTS) - 1
        assert stage.violations == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_node_that_stops_is_an_end(servers: Embedded, transport: str) -> None:
    """In mid-conversation, while it drains, and when it is gone."""
    async with things(servers) as stage:
        stopping, where = stage.nodes[1], stage.addresses()[1]
        observer = stage.observer("redis/things")
        talk = asyncio.create_task(converse(Conversation(transport, where, [observer])))
        await stage.told(observer)
        stopping.door.draining = True
        with pytest.raises(Ended):
            await converse(Conversation(transport, where, [observer]))
        await stopping.drain()
        with pytest.raises(Ended):
            await talk
        with pytest.raises(Ended):
            await converse(Conversation(transport, where, [observer]))
        assert stage.violations == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_a_node_refuses(servers: Embedded, transport: str) -> None:
    """A table may be gone in a fault; a cursor that is none is nobody's fault but ours."""
    async with things(servers) as stage:
        where = stage.addresses()[0]
        with pytest.raises(Ended, match="unknown_channel"):
            await converse(Conversation(transport, where, [stage.observer("postgres/nothing")]))
        observer = stage.observer("redis/things")
        observer.replica.cursor = "nonsense"
        with pytest.raises(Defect, match="bad_cursor"):
            await converse(Conversation(transport, where, [observer]))


@pytest.mark.parametrize("transport", ["sse", "ndjson", "poll"])
async def test_where_one_selection_has_no_place_all_begin_anew(servers: Embedded, transport: str) -> None:
    async with things(servers) as stage:
        observers = [stage.observer("redis/things"), stage.observer("mongo/things", "k0")]
        async with talking("ws-json", stage.addresses()[0], observers[0]):
            await stage.told(observers[0])
        async with talking(transport, stage.addresses()[1], *observers):
            await stage.told(observers[1])
            await until(lambda: observers[0].counts["snapshot"] == 2)
        assert stage.violations == []


SUBSCRIBED = 'data: {"type":"subscribed","id":0,"channel":"redis/things","cursor":"v1.e.7","items":{}}\n\n'
SOURCE = 'event: source\ndata: {"type":"source","store":"redis","state":"live","lag":0}\n'


@pytest.mark.parametrize(
    ("stream", "blamed"),
    [
        (f"event: subscribed\nid: v1.e.7\n{SUBSCRIBED}{SOURCE}\n", False),
        (f"event: subscribed\nid: v1.e.6\n{SUBSCRIBED}", True),
        (f"event: subscribed\n{SUBSCRIBED}", True),
        (f"event: subscribed\nid: v1.e.7\n{SUBSCRIBED}{SOURCE}id: v1.e.8\n\n", True),
    ],
    ids=["right", "another", "none", "out of turn"],
)
async def test_the_id_of_an_event_is_where_its_client_is(stream: str, blamed: bool) -> None:
    stage = Things([])
    async with answering(HEAD + b"\r\n" + stream.encode()) as where, asyncio.timeout(5):
        with pytest.raises(Ended):
            await converse(Conversation("sse", where, [stage.observer("redis/things")]))
    assert [each.invariant for each in stage.violations] == ["I3"] * blamed


async def test_an_event_under_another_name_is_a_defect() -> None:
    stage = Things([])
    async with answering(HEAD + b"\r\n" + f"event: put\n{SUBSCRIBED}".encode()) as where, asyncio.timeout(5):
        with pytest.raises(Defect, match="put"):
            await converse(Conversation("sse", where, [stage.observer("redis/things")]))


async def test_an_event_that_nobody_asked_for_is_a_defect() -> None:
    event = 'event: delete\nid: v1.e.8\ndata: {"type":"event","channel":"redis/things","key":"k1","op":"delete",'
    event += '"version":"1","time":0,"cursor":"v1.e.8"}\n\n'
    stage = Things([])
    async with answering(HEAD + b"\r\n" + event.encode()) as where, asyncio.timeout(5):
        with pytest.raises(Defect, match="nobody asked"):
            await converse(Conversation("sse", where, [stage.observer("redis/things", "k0")]))


@asynccontextmanager
async def listening(said: list[Any]) -> AsyncIterator[str]:
    """A WebSocket server that keeps what it is told, in the end the close code, and says nothing; its address."""

    async def listen(connection: ServerConnection) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                said.append(json.loads(await connection.recv())["type"])
        said.append(connection.close_code)

    protocol = websockets.Subprotocol("realtime.v1.json")
    async with serve(listen, "127.0.0.1", 0, subprotocols=[protocol]) as server, asyncio.timeout(10):
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_websocket_without_a_sign_of_life_is_dead() -> None:
    said: list[Any] = []
    async with listening(said) as where:
        with pytest.raises(Ended, match="no sign of life"):
            await converse(Conversation("ws-json", where, [Things([]).observer("redis/things")]))
    assert said[:-1] == ["subscribe", "ping", "ping", "ping"]


@pytest.mark.parametrize(("politely", "code"), [(True, 1000), (False, 1006)])
async def test_leaving(politely: bool, code: int) -> None:
    said: list[Any] = []
    observer = Things([]).observer("redis/things")
    async with listening(said) as where:
        async with talking("ws-json", where, observer, politely=politely):
            await until(lambda: said == ["subscribe"])
        await until(lambda: said == ["subscribe", code])
    assert observer.history[-1].endswith("gone")


# clients -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[None]:
    tasks = Tasks()
    tasks.start(client.run(), "client")
    try:
        yield
    finally:
        await tasks.close()


async def test_a_held_client_stays_until_its_connection_breaks(servers: Embedded) -> None:
    async with things(servers) as stage, Proxy(("127.0.0.1", stage.nodes[0].port)) as proxy:
        stage.addresses = lambda: [f"http://127.0.0.1:{proxy.port}"]  # type: ignore[method-assign]
        observer = stage.observer("redis/things")
        client = Client(stage, [observer], Random(1), stay=(0.05, 0.1))

        def visits() -> int:
            return sum(client.conversations.values())

        async with running(client):
            await until(lambda: visits() >= 5)
            await until(lambda: stage.connections() == 0)
            await until(lambda: stage.connections() == 1)
            client.hold()
            before = visits()
            for broken in range(3):
                for _ in range(20):  # as long as several visits
                    await stage.write("redis/things", "k0")
                    await stage.told(observer)
                    await asyncio.sleep(0.02)
                assert visits() == before + broken
                proxy.reset()
                await until(lambda: visits() == before + broken + 1)  # noqa: B023
            client.flap()
            await until(lambda: visits() >= before + 5)
        assert stage.violations == []


async def test_a_client_is_live_while_all_of_it_is_answered(servers: Embedded) -> None:
    async with things(servers) as stage:
        for transport in TRANSPORTS:
            observers = [stage.observer("redis/things"), stage.observer("mongo/things", "k0")]
            client = Client(stage, observers, Random(1), transports=[transport])
            client.hold()
            assert not client.live
            async with running(client):
                await until(lambda: client.live)  # noqa: B023
                assert all(each.cursor for each in observers)
            assert not client.live


async def test_a_client_follows_keys_to_where_their_writers_go_on(servers: Embedded) -> None:
    async with things(servers) as stage:
        client = Client(stage, [stage.observer("redis/things", "k0"), stage.observer("mongo/things")], Random(1))
        client.hold()
        async with running(client):
            await until(lambda: client.live)
            client.follow(stage.journal)
            assert [each.key for each in client.observers] == ["k0", None]
            stage.journal.give_up("redis/things", "k0", "k0.1")
            await stage.write("redis/things", "k0.1")
            client.follow(stage.journal)
            await stage.told(client.observers[0], "k0.1")
            await until(lambda: client.live)
        assert [each.key for each in client.observers] == ["k0.1", None]
        assert stage.violations == []


async def test_where_nobody_answers_it_does_not_hurry() -> None:
    """With no node at all, and with one that refuses."""
    async with answering() as gone:
        pass
    stage, tries = Things([]), 0

    def addresses() -> list[str]:
        nonlocal tries
        tries += 1
        return [gone] * (tries % 2)

    stage.addresses = addresses  # type: ignore[method-assign]
    clock = asyncio.get_running_loop()
    began = clock.time()
    async with running(Client(stage, [stage.observer("redis/things")], Random(1))):
        await until(lambda: tries >= 6)
    assert clock.time() - began >= 5 * 0.02


@pytest.mark.expects_logs
async def test_a_defect_is_reported(servers: Embedded) -> None:
    async with things(servers) as stage:
        observer = stage.observer("redis/things")
        observer.replica.cursor = "nonsense"
        async with running(Client(stage, [observer], Random(1))):
            await until(lambda: bool(stage.violations))
        assert stage.violations[0].invariant == "protocol"
        assert "bad_cursor" in stage.violations[0].text


# fleet ---------------------------------------------------------------------------------------------------------------


async def wrong(stage: Things, fleet: Fleet) -> list[str]:
    """Who has something else than the stores."""
    stored = {channel: await stage.stored(channel) for channel in {each.channel for each in fleet.observers}}
    return [
        each.name
        for each in fleet.observers
        if shown(each) != {key: value for key, value in stored[each.channel].items() if each.key in (None, key)}
    ]


async def test_a_fleet_that_comes_and_goes_ends_right(servers: Embedded) -> None:
    async with things(servers) as stage:
        fleet = Fleet(stage, stage.journal, 12, Random(7), stage.violations.append)
        fleet.open()

        async def write(channel: str) -> None:
            number = 0
            while sum(fleet.conversations.values()) < 24:
                number += 1
                await stage.write(channel, f"k{number % 24}")

        await asyncio.gather(*map(write, CHANNELS))
        fleet.hold()
        while await wrong(stage, fleet):  # noqa: ASYNC110 - the weather goes on
            await asyncio.sleep(0.02)
        for observer in fleet.observers:
            observer.settle()
        assert stage.violations == []
        assert sum(each.counts["resume"] for each in fleet.observers) > 12
        await fleet.close()
        assert [each.get_name() for each in asyncio.all_tasks() if each.get_name().startswith("client")] == []
        await until(lambda: stage.connections() == 0)
        await fleet.close()  # once more is no mistake
        assert set(fleet.messages) == set(fleet.conversations)


async def test_a_fleet_has_all_kinds_of_selections() -> None:
    stage = Things([])
    fleet = Fleet(stage, stage.journal, 120, Random(3), stage.violations.append)
    observers = fleet.observers
    assert {each.channel for each in observers} == {*CHANNELS, "weather/current"}
    whole = sum(each.key is None for each in observers) / len(observers)
    assert 0.7 < whole < 0.95
    assert 0.1 < sum(each.mode == "latest" for each in observers) / len(observers) < 0.3
    assert len({each.name for each in observers}) == len(observers)
    for client in fleet._clients:
        selections = [(each.channel, each.key) for each in client.observers]
        assert len(set(selections)) == len(selections)
        for channel, key in selections:
            assert key is not None or [each for each, _ in selections].count(channel) == 1
    *clients, first, second, third, fourth, fifth = fleet._clients
    assert {len(client.observers) for client in clients} == {1, 2, 3}
    for transport, client in zip(TRANSPORTS, (first, second, third, fourth, fifth), strict=True):
        assert list(client._transports) == [transport]
        assert [(each.channel, each.key) for each in client.observers] == [
            (channel, None) for channel in (*CHANNELS, "weather/current")
        ]


async def test_a_share_of_a_fleet_is_held() -> None:
    stage = Things([])
    fleet = Fleet(stage, stage.journal, 12, Random(3), stage.violations.append)
    fleet.hold(0.5)
    assert sum(client._held for client in fleet._clients) == (12 + len(TRANSPORTS)) // 2
    fleet.hold()
    assert all(client._held for client in fleet._clients)
    fleet.flap()
    assert not any(client._held for client in fleet._clients)


# slow readers --------------------------------------------------------------------------------------------------------

HALF_A_MEGABYTE = "x" * 500_000
MANY = 20  # more than socket buffers and what may wait for a session hold


@pytest.mark.parametrize("mode", ["latest", "all"])
async def test_a_slow_reader_is_right_once_it_reads(servers: Embedded, mode: Mode) -> None:
    """Meanwhile it is spared older values, or cut."""
    async with things(servers) as stage:
        observer = stage.observer("redis/things", mode=mode)
        reader = SlowReader(stage, observer, Random(1))
        tasks = Tasks()
        tasks.start(reader.run(), "slow reader")
        await until(lambda: stage.connections() == 1)
        await until(lambda: sum(node.metrics.subscriptions._value.get() for node in stage.nodes) == 1)
        for number in range(MANY):
            await stage.write("redis/things", f"k{number % 2}", HALF_A_MEGABYTE)
        assert observer.replica.items == {}
        cut = sum(node.metrics.slow._value.get() for node in stage.nodes)
        assert cut == (mode == "all")
        reader.read()
        await stage.told(observer, "k0")
        await stage.told(observer, "k1")
        observer.settle()
        assert (observer.counts["event"] < MANY) == (mode == "latest")
        await stage.write("redis/things", "k0")
        await stage.told(observer, "k0")
        await tasks.close()
        await until(lambda: stage.connections() == 0)
        assert stage.violations == []
