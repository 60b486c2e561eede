"""Reading on: WebSocket, server-sent events, lines of JSON, long-poll, on real sockets; one story for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
import websockets
from msgspec import Raw
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from websockets.asyncio.client import ClientConnection

from realtime.app import Service
from realtime.errors import StoreDown
from realtime.protocol import ANYHOW
from realtime.rights import EVERYTHING
from realtime.stores.base import Snapshot
from realtime.stores.memory import MemoryStore
from tests.wait import until

pytestmark = pytest.mark.gen_test

Next = Callable[[], Awaitable[dict[str, Any]]]


async def put(service: Service, key: str, value: object, collection: str = "rooms") -> None:
    await service.node.items.put(EVERYTHING, f"memory/{collection}", key, Raw(json.dumps(value).encode()), ANYHOW)


MANY = 1_500


async def fill(service: Service, letter: str = "x") -> None:
    """More than may wait of events: 1.5 MB."""
    for key in range(MANY):
        await put(service, str(key), letter * 1_000)


class Stream:
    """The body of an answer that goes on, block by block."""

    def __init__(self, client: AsyncHTTPClient, url: str, separator: bytes, **headers: str) -> None:
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue()
        self._rest = b""
        self._separator = separator
        request = HTTPRequest(url, headers=headers, streaming_callback=self._take, request_timeout=30)
        self._answer = asyncio.ensure_future(client.fetch(request))
        self._answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # most are left open

    def _take(self, chunk: bytes) -> None:
        *blocks, self._rest = (self._rest + chunk).split(self._separator)
        for block in blocks:
            self._blocks.put_nowait(block)

    async def block(self) -> str:
        async with asyncio.timeout(5):
            return (await self._blocks.get()).decode()

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self._answer

    async def event(self) -> dict[str, Any]:
        """The next server-sent event: its fields, `data` decoded."""
        while True:
            fields = dict(line.split(": ", 1) for line in (await self.block()).split("\n") if not line.startswith(":"))
            if "data" in fields:
                return {**fields, "data": json.loads(fields["data"])}


@asynccontextmanager
async def socket(base_url: str, codec: str = "json") -> AsyncIterator[ClientConnection]:
    url = base_url.replace("http", "ws") + "/v1/ws"
    subprotocol = websockets.Subprotocol(f"realtime.v1.{codec}")
    async with websockets.connect(url, subprotocols=[subprotocol]) as connection:
        assert connection.subprotocol == subprotocol
        yield connection


async def ask(connection: ClientConnection, codec: str = "json", **message: Any) -> None:
    await connection.send(json.dumps(message) if codec == "json" else msgpack.packb(message))


async def hear(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        frame = await connection.recv()
    message: dict[str, Any] = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
    return message


# WebSocket ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_websocket_story(service: Service, base_url: str, codec: str) -> None:
    await put(service, "attic", 1)
    async with socket(base_url, codec) as connection:
        assert (await hear(connection))["type"] == "welcome"
        await ask(connection, codec, type="subscribe", id="r", channel="memory/rooms")
        shown = await hear(connection)
        assert (shown["type"], shown["id"], shown["items"]) == ("subscribed", "r", {"attic": 1})
        await put(service, "attic", 2)
        event = await hear(connection)
        assert (event["type"], event["key"], event["op"], event["value"]) == ("event", "attic", "put", 2)
    await put(service, "attic", 3)  # while the client is away
    async with socket(base_url, codec) as connection:
        await hear(connection)
        await ask(connection, codec, type="subscribe", id=1, channel="memory/rooms", cursor=event["cursor"])
        assert (await hear(connection))["items"] is None
        assert (await hear(connection))["value"] == 3
        await ask(connection, codec, type="unsubscribe", id=1)
        assert (await hear(connection))["type"] == "unsubscribed"
        await put(service, "attic", 4)
        await ask(connection, codec, type="ping")
        assert (await hear(connection))["type"] == "pong"


async def test_websocket_errors_leave_the_connection_open(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await hear(connection)
        for sent, code in (
            ("{oops", "bad_request"),
            ('{"type":"shout"}', "bad_request"),
            ('{"type":"subscribe","id":1,"channel":"oracle/x"}', "unknown_channel"),
            ('{"type":"subscribe","id":1,"channel":"nonsense"}', "bad_request"),
            ('{"type":"subscribe","id":1,"channel":"memory/x","cursor":"?"}', "bad_cursor"),
        ):
            await connection.send(sent)
            assert (await hear(connection))["code"] == code
        await ask(connection, type="subscribe", id=1, channel="memory/rooms")
        assert (await hear(connection))["type"] == "subscribed"
        await ask(connection, type="subscribe", id=1, channel="memory/rooms")
        refused = await hear(connection)
        assert (refused["code"], refused["id"]) == ("bad_request", 1)
        assert "in use" in refused["message"]


async def test_a_refused_subscribe_is_told_by_its_id(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await hear(connection)
        await ask(connection, type="subscribe", id="mine", channel=5)
        refused = await hear(connection)
        assert (refused["id"], refused["code"]) == ("mine", "bad_request")


async def test_a_frame_that_is_too_large_closes_with_1009(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await connection.send("x" * (1 << 17))
        await connection.wait_closed()
        assert connection.close_code == 1009


async def test_a_session_leaves_nothing_behind(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await hear(connection)
        await ask(connection, type="subscribe", id=1, channel="memory/rooms")
        await hear(connection)
        assert service.metrics.subscriptions._value.get() == 1
    await until(lambda: service.metrics.subscriptions._value.get() == 0)
    assert service.metrics.connections.labels("websocket")._value.get() == 0


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_large_collection_is_shown(service: Service, base_url: str, codec: str) -> None:
    await fill(service)
    async with socket(base_url, codec) as connection:
        await hear(connection)
        await ask(connection, codec, type="subscribe", id=1, channel="memory/rooms")
        shown, more = dict[str, str](), True
        while more:
            part = await hear(connection)
            shown |= part["items"]
            more = part.get("more", False)
        assert len(shown) == MANY
        await put(service, "0", "again")
        assert (await hear(connection))["value"] == "again"


class Hanging(MemoryStore):
    """A store whose snapshots hang until `answers`; one that is given up takes turns to end, as a driver's does."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.answers = asyncio.Event()
        self.hanging = self.begun = 0

    async def snapshot(self, *given: Any, **named: Any) -> Snapshot:
        self.begun += 1
        self.hanging += 1
        try:
            await self.answers.wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            self.hanging -= 1
        return await super().snapshot(*given, **named)


async def test_an_id_is_free_at_once_when_its_subscribe_is_given_up(
    service: Service, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Hanging()
    monkeypatch.setattr(service.node.stores["memory"], "snapshot", store.snapshot)
    async with socket(base_url) as connection:
        await hear(connection)
        await ask(connection, type="subscribe", id=1, channel="memory/rooms")
        for begun in (1, 2):
            await until(lambda: store.begun == begun and store.hanging == 1)  # noqa: B023 - it is awaited here
            await ask(connection, type="unsubscribe", id=1)
            await ask(connection, type="subscribe", id=1, channel="memory/rooms")
            assert (await hear(connection))["type"] == "unsubscribed"
        await until(lambda: store.begun == 3 and store.hanging == 1)
        store.answers.set()
        assert (await hear(connection))["type"] == "subscribed"
        await put(service, "attic", 1)
        assert (await hear(connection))["value"] == 1
        assert service.metrics.subscriptions._value.get() == 1
    await until(lambda: service.metrics.subscriptions._value.get() == 0)
    assert not service.node._hub.listening("memory/rooms")


async def test_a_number_that_only_json_can_hold_reaches_a_msgpack_client(service: Service, base_url: str) -> None:
    async with socket(base_url, "msgpack") as connection:
        await hear(connection)
        await ask(connection, "msgpack", type="subscribe", id=1, channel="memory/rooms")
        await hear(connection)
        await service.node.items.put(EVERYTHING, "memory/rooms", "attic", Raw(b"1e400"), ANYHOW)
        assert (await hear(connection))["value"] == float("inf")


@pytest.mark.expects_logs
@pytest.mark.parametrize("crowd", [False, True])
async def test_a_message_that_cannot_be_encoded_closes_with_1011(service: Service, base_url: str, crowd: bool) -> None:
    async with socket(base_url, "msgpack") as connection:
        await hear(connection)
        await ask(connection, "msgpack", type="subscribe", id=1, channel="memory/rooms")
        await hear(connection)
        if crowd:  # which it enters with the first event
            await put(service, "attic", 1)
            await hear(connection)
        await service.node.items.put(
            EVERYTHING, "memory/rooms", "attic", Raw(b'"\xff"'), ANYHOW
        )  # a store should know better
        async with asyncio.timeout(5):
            await connection.wait_closed()
        assert connection.close_code == 1011
    await until(lambda: service.metrics.subscriptions._value.get() == 0)


# server-sent events -------------------------------------------------------------------------------------------------


async def test_sse_story(service: Service, base_url: str, http_client: AsyncHTTPClient) -> None:
    await put(service, "attic", 1)
    url = f"{base_url}/v1/memory/rooms"
    stream = Stream(http_client, url, b"\n\n", Accept="text/event-stream")
    shown = await stream.event()
    assert (shown["event"], shown["data"]["items"]) == ("subscribed", {"attic": 1})
    await put(service, "attic", 2)
    event = await stream.event()
    assert (event["event"], event["data"]["value"]) == ("put", 2)
    assert event["id"] == event["data"]["cursor"]
    await put(service, "attic", 3)
    again = Stream(http_client, url, b"\n\n", Accept="text/event-stream", **{"Last-Event-ID": event["id"]})
    assert (await again.event())["data"]["items"] is None
    assert (await again.event())["data"]["value"] == 3


@pytest.mark.expects_logs
async def test_an_event_source_is_told_to_come_back_while_the_store_is_down(
    service: Service, base_url: str, http_client: AsyncHTTPClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To EventSource another status than 200 would be the end."""

    async def down(*_: Any, **__: Any) -> Snapshot:
        raise StoreDown("gone")

    monkeypatch.setattr(service.node.stores["memory"], "snapshot", down)
    stream = Stream(http_client, f"{base_url}/v1/memory/rooms", b"\n\n", Accept="text/event-stream")
    assert await stream.block() == "retry: 2000"
    event = await stream.event()
    assert (event["event"], event["data"]["code"]) == ("error", "store_down")
    await stream.end()


async def test_one_key_over_sse(service: Service, base_url: str, http_client: AsyncHTTPClient) -> None:
    stream = Stream(http_client, f"{base_url}/v1/memory/rooms/attic", b"\n\n", Accept="text/event-stream")
    assert (await stream.event())["data"]["items"] == {}
    await put(service, "cellar", 1)
    await put(service, "attic", 2)
    assert (await stream.event())["data"]["key"] == "attic"


async def test_lines_of_json(service: Service, base_url: str, http_client: AsyncHTTPClient) -> None:
    stream = Stream(http_client, f"{base_url}/v1/memory/rooms?stream=ndjson", b"\n")
    assert json.loads(await stream.block())["type"] == "subscribed"
    await put(service, "attic", 2)
    assert json.loads(await stream.block())["value"] == 2


async def test_several_selections_share_a_cursor(service: Service, base_url: str, http_client: AsyncHTTPClient) -> None:
    url = f"{base_url}/v1/live?subscribe=memory/rooms&subscribe=memory/halls/west"
    stream = Stream(http_client, url, b"\n\n", Accept="text/event-stream")
    await stream.event()
    await stream.event()
    await put(service, "attic", 1)
    await put(service, "west", 2, "halls")
    events = [await stream.event(), await stream.event()]
    assert sorted(event["data"]["value"] for event in events) == [1, 2]
    await put(service, "west", 3, "halls")
    poll = await http_client.fetch(f"{url}&cursor={events[1]['id']}&wait=5")
    assert [event["value"] for event in json.loads(poll.body)["events"]] == [3]


# a rate -------------------------------------------------------------------------------------------------------------


async def test_a_rate_is_kept_on_a_websocket(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await hear(connection)
        for given, said in (
            ({"max_rate": 0}, "max_rate must be 0.01 to 100 (a second), not 0"),
            ({"max_rate": 1e9}, "max_rate must be 0.01 to 100 (a second), not 1e+09"),
            ({"max_rate": 1, "mode": "all"}, "max_rate leaves events out, and mode all wants all"),
        ):
            await ask(connection, type="subscribe", id=1, channel="memory/rooms", **given)
            refused = await hear(connection)
            assert (refused["id"], refused["code"], refused["message"]) == (1, "bad_request", said)
        await ask(connection, type="subscribe", id=1, channel="memory/rooms", max_rate=1)
        await hear(connection)
        for value in range(100):
            await put(service, "attic", value)
        assert [(await hear(connection))["value"] for _ in range(2)] == [0, 99]


@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_a_rate_is_kept_on_a_stream(
    service: Service, base_url: str, http_client: AsyncHTTPClient, form: str
) -> None:
    accept, query, end = ("text/event-stream", "", b"\n\n") if form == "sse" else ("*/*", "stream=ndjson&", b"\n")
    url = f"{base_url}/v1/memory/rooms?{query}max_rate="
    refused = await http_client.fetch(f"{url}1000", headers={"Accept": accept}, raise_error=False)
    assert json.loads(refused.body)["error"]["message"] == "max_rate must be 0.01 to 100, not 1000"
    stream = Stream(http_client, f"{url}1", end, Accept=accept)

    async def next_value() -> Any:
        while True:
            block = await stream.block()
            if '"type":"event"' in block:
                return json.loads(block[block.index("{") :])["value"]

    while '"subscribed"' not in await stream.block():
        pass
    for value in range(100):
        await put(service, "attic", value)
    assert [await next_value() for _ in range(2)] == [0, 99]


async def test_a_poll_has_a_pace_of_its_own(base_url: str, http_client: AsyncHTTPClient) -> None:
    refused = await http_client.fetch(f"{base_url}/v1/memory/rooms?wait=1&max_rate=1", raise_error=False)
    assert json.loads(refused.body)["error"]["message"] == "max_rate is for streams: a poll has its own pace"


# long-poll ----------------------------------------------------------------------------------------------------------


async def test_poll_story(service: Service, base_url: str, http_client: AsyncHTTPClient) -> None:
    await put(service, "attic", 1)
    url = f"{base_url}/v1/memory/rooms"

    async def poll(cursor: str = "", wait: float = 5) -> dict[str, Any]:
        answer = await http_client.fetch(f"{url}?wait={wait}" + (f"&cursor={cursor}" if cursor else ""))
        body: dict[str, Any] = json.loads(answer.body)
        return body

    first = await poll()
    assert (first["items"], first["events"]) == ({"attic": 1}, [])
    waiting = asyncio.ensure_future(poll(first["cursor"]))
    await until(lambda: service.metrics.connections.labels("poll")._value.get() == 1)
    await put(service, "attic", 2)
    second = await waiting
    assert (second["items"], [event["value"] for event in second["events"]]) == (None, [2])
    await put(service, "attic", 3)
    await put(service, "attic", 4)
    third = await poll(second["cursor"])
    assert third["events"][-1]["value"] == 4
    assert (await poll(third["cursor"], 0.01))["events"] == []


async def test_a_lost_cursor_is_answered_with_the_items(
    service: Service, base_url: str, http_client: AsyncHTTPClient
) -> None:
    await put(service, "attic", 1)
    answer = await http_client.fetch(f"{base_url}/v1/memory/rooms?cursor=v1.elsewhere.3")
    body = json.loads(answer.body)
    assert (body["items"], body["reason"]) == ({"attic": 1}, "epoch")


async def test_a_cursor_changes_transport_in_mid_stream(
    service: Service, base_url: str, http_client: AsyncHTTPClient
) -> None:
    """WebSocket, then SSE, then a poll, then a plain GET's cursor: each goes on where the last one was."""
    url = f"{base_url}/v1/memory/rooms/attic"
    async with socket(base_url) as connection:
        await hear(connection)
        await ask(connection, type="subscribe", id=1, channel="memory/rooms", key="attic")
        cursor = (await hear(connection))["cursor"]
    await put(service, "attic", 1)
    stream = Stream(http_client, url, b"\n\n", Accept="text/event-stream", **{"Last-Event-ID": cursor})
    assert (await stream.event())["data"]["items"] is None
    event = await stream.event()
    assert event["data"]["value"] == 1
    await put(service, "attic", 2)
    poll = json.loads((await http_client.fetch(f"{url}?cursor={event['id']}")).body)
    assert [each["value"] for each in poll["events"]] == [2]
    cursor = (await http_client.fetch(url)).headers["Realtime-Cursor"]
    await put(service, "attic", 3)
    poll = json.loads((await http_client.fetch(f"{url}?cursor={cursor}")).body)
    assert [each["value"] for each in poll["events"]] == [3]


async def test_a_large_collection_is_one_answer(service: Service, base_url: str, http_client: AsyncHTTPClient) -> None:
    await fill(service)
    url = f"{base_url}/v1/memory/rooms"
    shown = json.loads((await http_client.fetch(f"{url}?wait=5")).body)
    assert len(shown["items"]) == MANY
    await fill(service, "y")
    resumed = json.loads((await http_client.fetch(f"{url}?wait=5&cursor={shown['cursor']}")).body)
    assert (len(resumed["items"]), resumed["reason"]) == (MANY, "trimmed")  # 1,000 events are kept
    for key in range(10):
        await put(service, str(key), "z")
    resumed = json.loads((await http_client.fetch(f"{url}?wait=5&cursor={resumed['cursor']}")).body)
    assert {event["value"] for event in resumed["events"]} == {"z"}


async def test_more_than_a_poll_can_hold_has_no_cursor(
    service: Service, base_url: str, http_client: AsyncHTTPClient
) -> None:
    await put(service, "attic", 1)
    url = f"{base_url}/v1/memory/rooms"
    cursor = json.loads((await http_client.fetch(f"{url}?wait=5")).body)["cursor"]
    waiting = asyncio.ensure_future(http_client.fetch(f"{url}?wait=1&cursor={cursor}", raise_error=False))
    await until(lambda: service.metrics.subscriptions._value.get() == 1)
    await fill(service)  # in one go: it comes as one delivery
    answer = await waiting
    assert (answer.code, json.loads(answer.body)["error"]["code"]) == (503, "too_slow")
    again = json.loads((await http_client.fetch(f"{url}?wait=5")).body)
    assert len(again["items"]) == MANY + 1


async def test_two_keys_of_one_channel_share_a_cursor(
    service: Service, base_url: str, http_client: AsyncHTTPClient
) -> None:
    """Each id and each poll's cursor stands for what was told of both, also while only one is answered."""
    await put(service, "a", 1)
    await put(service, "b", 1)
    url = f"{base_url}/v1/live?subscribe=memory/rooms/a&subscribe=memory/rooms/b"
    stream = Stream(http_client, url, b"\n\n", Accept="text/event-stream")
    first, second = await stream.event(), await stream.event()
    assert "id" not in first  # half of the selections have no place as yet
    await put(service, "a", 2)
    event = await stream.event()
    assert event["id"] != second["id"]
    await put(service, "b", 3)
    for cursor, values in ((second["id"], [2, 3]), (event["id"], [3])):
        answer = await http_client.fetch(f"{url}&wait=5&cursor={cursor}")
        assert sorted(each["value"] for each in json.loads(answer.body)["events"]) == values


# the end ------------------------------------------------------------------------------------------------------------


async def test_drain_says_good_bye_on_every_transport(
    service: Service, base_url: str, http_client: AsyncHTTPClient
) -> None:
    url = f"{base_url}/v1/memory/rooms"
    cursor = json.loads((await http_client.fetch(url)).body)["cursor"]
    stream = Stream(http_client, url, b"\n\n", Accept="text/event-stream")
    await stream.event()
    poll = asyncio.ensure_future(http_client.fetch(f"{url}?cursor={cursor}&wait=30"))
    async with socket(base_url) as connection:
        await hear(connection)
        await until(lambda: service.metrics.connections.labels("poll")._value.get() == 1)
        await service.door.drain(5)
        assert json.loads((await poll).body)["cursor"] == cursor
        assert (await stream.event())["event"] == "bye"
        await stream.end()
        await connection.wait_closed()
        assert connection.close_code == 1012
    ready = await http_client.fetch(f"{base_url}/readyz", raise_error=False)
    assert (ready.code, json.loads(ready.body)["draining"]) == (503, True)
    refused = await http_client.fetch(f"{url}?cursor={cursor}", raise_error=False)
    assert (refused.code, refused.headers["Retry-After"]) == (503, "1")
