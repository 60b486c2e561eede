"""What a user, or an address of those who do not say who they are, may have: on real accounts and sockets."""

from __future__ import annotations

import json
from asyncio import gather
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from websockets.exceptions import InvalidStatus

from realtime.config import Limits
from realtime.embedded import Embedded
from tests.guarded import Conversation, Guarded, guarded
from tests.wait import until

pytestmark = pytest.mark.asyncio

RULES = """
[[rule]]
roles = ["*", "anonymous"]
channels = ["redis/rooms"]
read = true
write = true
"""
ROOMS = "/v1/redis/rooms"
LIMITS = Limits(writes=1, user_connections=2, address_connections=2, user_subscriptions=3)
PROXIES = ("127.0.0.2/32",)


@pytest_asyncio.fixture
async def there(request: pytest.FixtureRequest, servers: Embedded, tmp_path: Path) -> AsyncIterator[Guarded]:
    limits = getattr(request, "param", LIMITS)
    people: dict[str, list[str]] = {"ann": [], "ben": []}
    async with guarded(servers, tmp_path, RULES, people, limits=limits, proxies=PROXIES) as found:
        yield found


def refused(there: Guarded, limit: str) -> float:
    counted: float = there.nodes[0].metrics.limited.labels(limit)._value.get()
    return counted


def code(answer: HTTPResponse) -> tuple[int, str]:
    return answer.code, json.loads(answer.body)["error"]["code"]


async def connect(stack: AsyncExitStack, there: Guarded, name: str | None = None, **headers: Any) -> Conversation:
    return await stack.enter_async_context(there.connected(name, **headers))


async def turned_away(there: Guarded, name: str | None = None, **headers: Any) -> None:
    """On every transport, before anything is upgraded."""
    with pytest.raises(InvalidStatus) as status:
        async with there.connected(name, **headers):
            pass
    assert status.value.response.status_code == 503
    assert 1 <= int(status.value.response.headers["Retry-After"]) <= 5
    for query, accept in (("", "text/event-stream"), ("?stream=ndjson", "*/*"), ("?wait=5", "*/*")):
        answer = await there.ask(name, ROOMS + query, Accept=accept, **headers)
        assert code(answer) == (503, "full")
        assert 1 <= int(answer.headers["Retry-After"]) <= 5


async def put(there: Guarded, name: str | None = None, method: str = "PUT", **headers: Any) -> HTTPResponse:
    return await there.ask(name, f"{ROOMS}/attic", method, None if method == "DELETE" else {"x": 1}, **headers)


async def until_refused(write: Callable[[], Awaitable[HTTPResponse]], done: int = 200) -> HTTPResponse:
    """The first that is too many: while we ask, some come back."""
    for _ in range(50):
        if (answer := await write()).code not in (done, 204):
            return answer
    raise AssertionError("nobody is refused")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_writes_of_a_user(there: Guarded, method: str) -> None:
    for _ in range(4):
        assert (await put(there, "ann")).code == 200
    answer = await until_refused(lambda: put(there, "ann", method))
    assert (*code(answer), answer.headers["Retry-After"]) == (429, "too_many", "1")
    assert refused(there, "writes") == 1
    assert (await there.ask("ann", ROOMS)).code == 200
    assert (await put(there, "ben")).code == 200
    assert (await put(there)).code == 200


async def test_tickets_are_written_too(there: Guarded) -> None:
    answer = await until_refused(lambda: there.ask("ann", "/v1/ticket", "POST", 1), done=201)
    assert code(answer) == (429, "too_many")


async def test_writes_of_nobody_count_by_address(there: Guarded) -> None:
    """Of the connection: what a client says of it is nothing."""
    numbers = count()

    async def spoofed() -> HTTPResponse:
        address = f"6.6.6.{next(numbers)}"
        return await put(there, **{"X-Forwarded-For": address, "X-Real-Ip": address})

    assert code(await until_refused(spoofed)) == (429, "too_many")
    assert (await put(there, "ann")).code == 200


async def forwarded(there: Guarded, address: str) -> HTTPResponse:
    """By way of a proxy that is believed."""
    headers = {"X-Forwarded-For": f"6.6.6.6, {address}"}
    request = HTTPRequest(f"{there.bases[0]}{ROOMS}/attic", "PUT", headers, b"1", network_interface="127.0.0.2")
    return await AsyncHTTPClient(force_instance=True).fetch(request, raise_error=False)


async def test_behind_a_proxy_each_client_counts_for_itself(there: Guarded) -> None:
    answers = await gather(*(forwarded(there, f"9.9.9.{number}") for number in range(20)))
    assert {each.code for each in answers} == {200}
    assert code(await until_refused(lambda: forwarded(there, "9.9.9.99"))) == (429, "too_many")


@pytest.mark.parametrize("there", [Limits(user_messages=1)], indirect=True)
async def test_messages_on_all_connections_of_a_user(there: Guarded) -> None:
    async with AsyncExitStack() as stack:
        ann = [await connect(stack, there, "ann") for _ in range(2)]
        ben = await connect(stack, there, "ben")
        for number in range(50):
            await ann[number % 2].say(type="ping")
        answers = [await ann[number % 2].next("pong", "error") for number in range(50)]
        assert {answer.get("code", answer["type"]) for answer in answers} == {"pong", "too_many"}
        assert refused(there, "user_messages") >= 30
        await ben.say(type="ping")
        await ben.next("pong")


async def test_connections_of_a_user(there: Guarded) -> None:
    async with AsyncExitStack() as stack:
        first, _ = [await connect(stack, there, "ann") for _ in range(2)]
        await turned_away(there, "ann")
        assert refused(there, "user_connections") == 4
        await connect(stack, there, "ben")
        await first.connection.close()
        await until(lambda: there.nodes[0].metrics.connections.labels("websocket")._value.get() == 2)
        await connect(stack, there, "ann")


async def test_connections_of_an_address_until_they_say_who_they_are(there: Guarded) -> None:
    async with AsyncExitStack() as stack:
        first, _ = [await connect(stack, there) for _ in range(2)]
        await turned_away(there, **{"X-Forwarded-For": "6.6.6.6"})
        assert refused(there, "address_connections") == 4
        await connect(stack, there, "ann")
        await first.say(type="auth", token=there.tokens["ann"])
        await first.next("authenticated")
        await connect(stack, there)
        await turned_away(there)
        await turned_away(there, "ann")  # one by its header, one by its message


async def test_who_says_too_late_who_they_are_has_no_room_either(there: Guarded) -> None:
    async with AsyncExitStack() as stack:
        nobody, *_ = [await connect(stack, there, name) for name in (None, "ann", "ann")]
        await nobody.say(type="auth", token=there.tokens["ann"])
        assert (await nobody.next("error"))["code"] == "full"
        await nobody.say(type="auth", token=there.tokens["ben"])
        await nobody.next("authenticated")


async def test_subscriptions_of_a_user(there: Guarded) -> None:
    async with AsyncExitStack() as stack:
        first, second = [await connect(stack, there, "ann") for _ in range(2)]
        ben = await connect(stack, there, "ben")
        for number, each in enumerate((first, first, second)):
            assert (await each.subscribe("redis/rooms", str(number), number))["type"] == "subscribed"
        answer = await second.subscribe("redis/rooms", "attic", 9)
        assert (answer["id"], answer["code"]) == (9, "too_many")
        assert refused(there, "user_subscriptions") == 1
        assert (await ben.subscribe("redis/rooms"))["type"] == "subscribed"
        await first.say(type="unsubscribe", id=0)
        await first.next("unsubscribed")
        assert (await second.subscribe("redis/rooms", "attic", 9))["type"] == "subscribed"


async def test_selections_of_a_stream_are_subscriptions_of_its_user(there: Guarded) -> None:
    async def ask(keys: int) -> Any:
        query = "&".join(f"subscribe=redis/rooms/{key}" for key in range(keys))
        return await there.ask("ann", f"/v1/live?{query}&wait=0")

    assert (await ask(3)).code == 200
    assert code(await ask(4)) == (429, "too_many")
    assert (await ask(3)).code == 200
