"""Every verb, by every transport, by every kind of somebody, on keys of their own and of others, on real accounts.

What is expected is written down here once, as a table, and knows nothing of how rights are worked out. What is allowed
is looked at, too: that no answer has another's key or a hidden column in it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from realtime.embedded import Embedded
from tests.auth.issuer import AUDIENCE, ISSUER, SECRET
from tests.guarded import Guarded, guarded

pytestmark = pytest.mark.asyncio

RULES = """
[[rule]]
roles = ["owner"]
channels = ["redis/notes"]
keys = ["{user}:*"]
read = true
write = true

[[rule]]
roles = ["reader"]
channels = ["postgres/entries"]
read = true
hide = ["markdown"]

[[rule]]
roles = ["masked"]
channels = ["postgres/entries"]
read = true
write = true
hide = ["markdown"]

[[rule]]
roles = ["editor"]
channels = ["postgres/*", "mongo/posts"]
read = true
write = true

[[rule]]
roles = ["*"]
channels = ["weather/current"]
read = true

[[rule]]
roles = ["anonymous", "*"]
channels = ["redis/public"]
read = true

[[rule]]
roles = ["admin"]
channels = ["*"]
read = true
write = true
"""
PEOPLE = {
    "plain": [],
    "owner": ["owner"],
    "reader": ["reader"],
    "masked": ["masked"],
    "editor": ["editor"],
    "narrow": ["editor"],
    "outside": [],
    "gone": ["admin"],
    "admin": ["admin"],
}
NOBODY = None

# (channel, whose key) → who may read, who may write
EVERYBODY = set[str | None](PEOPLE.keys() - {"gone", "narrow"})  # the scope of narrow has no weather in it
TABLE: dict[tuple[str, str], tuple[set[str | None], set[str | None]]] = {
    ("redis/notes", "own"): ({"owner", "admin"}, {"owner", "admin"}),
    ("redis/notes", "other"): ({"admin"}, {"admin"}),
    ("redis/public", "a"): ({NOBODY, *EVERYBODY}, {"admin"}),
    ("postgres/entries", "1"): (
        {"reader", "masked", "editor", "narrow", "outside", "admin"},
        {"masked", "editor", "outside", "admin"},
    ),
    ("mongo/posts", "p"): ({"editor", "outside", "admin"}, {"editor", "outside", "admin"}),
    ("weather/current", "berlin"): (EVERYBODY, {"admin"}),
    ("redis/nothing", "x"): ({"admin"}, {"admin"}),
    ("oracle/nothing", "x"): ({"admin"}, {"admin"}),
}
# Of a whole channel: who sees anything of it, and who may have the store make a key.
WHOLE: dict[tuple[str, None], tuple[set[str | None], set[str | None]]] = {
    (channel, None): (readers, writers - {"owner"})
    for (channel, key), (readers, writers) in TABLE.items()
    if key != "other"
}
SECRET_TEXT, OTHERS_TEXT = "hidden-from-some", "belongs-to-another"


class Asked(NamedTuple):
    """What came of it: a status, or an error's code on a WebSocket; and all that was said."""

    status: int
    said: bytes


@pytest_asyncio.fixture
async def there(servers: Embedded, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(servers, tmp_path, RULES, PEOPLE, nodes=1) as found:
        await found.accounts.change(found.people["gone"].id, disabled=True)
        claims = {"sub": "olga", "aud": AUDIENCE, "iss": ISSUER, "exp": time.time() + 3600, "roles": ["editor"]}
        found.tokens["outside"] = jwt.encode(claims, SECRET, "HS256")
        narrow = found.people["narrow"].id
        _, found.tokens["narrow"] = await found.accounts.issue(narrow, "narrow", ["read:postgres/*"], None)
        yield found


async def prepare(there: Guarded) -> None:
    for name in PEOPLE:
        await fill(there, "redis/notes", own(there, name), {"text": "mine"})
    await fill(there, "redis/notes", "somebody:1", {"text": OTHERS_TEXT})
    await fill(there, "redis/public", "a", 1)
    await fill(there, "postgres/entries", "1", {"slug": "s", "title": "t", "markdown": SECRET_TEXT})
    await fill(there, "mongo/posts", "p", {"text": "t"})


async def fill(there: Guarded, channel: str, key: str, value: object) -> None:
    answer = await there.ask("admin", f"/v1/{channel}/{key}?wait=5", "PUT", value)
    assert answer.code in (200, 202), answer.body


def own(there: Guarded, name: str) -> str:
    return f"{there.people[name].id}:1"


def key_of(there: Guarded, name: str | None, whose: str | None) -> str | None:
    if whose == "own":
        return own(there, name or "plain")
    return "somebody:1" if whose == "other" else whose


# reading, by each transport -------------------------------------------------------------------------------------------

Read = Callable[[Guarded, str | None, str, str | None], Awaitable[Asked]]


def path_of(channel: str, key: str | None) -> str:
    return f"/v1/{channel}" if key is None else f"/v1/{channel}/{key}"


async def get(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    answer = await there.ask(name, path_of(channel, key))
    return Asked(answer.code, answer.body)


async def poll(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    answer = await there.ask(name, f"{path_of(channel, key)}?wait=0")
    return Asked(answer.code, answer.body)


async def poll_on(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    """With a cursor from before all that there is: the history, or items."""
    answer = await there.ask(name, f"{path_of(channel, key)}?wait=0&cursor={await cursor(there, channel)}")
    return Asked(answer.code, answer.body)


async def many(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    selection = channel if key is None else f"{channel}/{key}"
    answer = await there.ask(name, f"/v1/live?subscribe={selection}&wait=0")
    return Asked(answer.code, answer.body)


async def lines(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    return await streamed(there, name, f"{path_of(channel, key)}?stream=ndjson", "*/*")


async def sse(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    return await streamed(there, name, path_of(channel, key), "text/event-stream")


async def by_ticket(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    made = await there.ask(name, "/v1/ticket", "POST")
    if made.code != 201:
        return Asked(made.code, made.body)
    ticket = json.loads(made.body)["ticket"]
    return await streamed(there, None, f"{path_of(channel, key)}?ticket={ticket}", "text/event-stream")


async def streamed(there: Guarded, name: str | None, path: str, accept: str) -> Asked:
    """Until the state has been shown, or all of an error."""
    host, _, port = there.bases[0].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = f"Authorization: Bearer {there.tokens[name]}\r\n" if name is not None else ""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n{token}\r\n"
    writer.write(head.encode())
    try:
        status = int((await reader.readline()).split()[1])
        said = b""
        while b"subscribed" not in said and b'"error"' not in said:
            said += await reader.read(1 << 16)
        while status == 200 and b"\n" not in said[said.index(b"subscribed") :]:
            said += await reader.read(1 << 16)
    finally:
        writer.close()
    return Asked(status, said)


async def websocket(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    return await conversed(there, name, channel, key)


async def websocket_on(there: Guarded, name: str | None, channel: str, key: str | None) -> Asked:
    return await conversed(there, name, channel, key, cursor=await cursor(there, channel))


async def conversed(there: Guarded, name: str | None, channel: str, key: str | None, **more: Any) -> Asked:
    """All that is said up to a pong."""
    said: list[dict[str, Any]] = []
    async with there.connected(name) as conversation:
        said.append(await conversation.subscribe(channel, key, **more))
        await conversation.say(type="ping")
        while said[-1]["type"] != "pong":
            said.append(await conversation.next("event", "subscribed", "pong"))
    codes = {"unauthorized": 401, "forbidden": 403, "unknown_channel": 404}
    return Asked(codes.get(str(said[0].get("code")), 200), json.dumps(said).encode())


READS: list[Read] = [get, poll, poll_on, many, lines, sse, by_ticket, websocket, websocket_on]


# writing --------------------------------------------------------------------------------------------------------------


async def write(there: Guarded, name: str | None, method: str, channel: str, key: str | None) -> Asked:
    value: object = {"text": "mine"}
    if channel == "postgres/entries":
        value = {"title": "t2"} if method == "PATCH" else {"slug": f"s{next(NUMBERS)}", "title": "t2"}
    body = None if method == "DELETE" else value
    answer = await there.ask(name, path_of(channel, key), method, body)
    return Asked(answer.code, answer.body)


NUMBERS = itertools.count()
WRITES = ["PUT", "POST", "PATCH", "DELETE"]


def expected(name: str | None, allowed: bool) -> set[int]:
    if name == "gone":
        return {401}  # a token that does not hold is refused, whatever it is for
    if allowed:
        return {200, 201, 202, 204, 404, 405, 409, 412, 422}  # what the stores say is another matter
    return {401} if name is None else {403}


async def refused(ask: Awaitable[Asked]) -> Asked:
    """A WebSocket is refused before it is one where the token does not hold."""
    try:
        return await ask
    except InvalidStatus as error:
        return Asked(error.response.status_code, b"")


async def test_every_verb_by_every_transport(there: Guarded) -> None:
    wrong: list[str] = []
    for name in (NOBODY, *PEOPLE):
        await prepare(there)
        wrong += [f"{name}: {each}" async for each in findings(there, name)]
    assert wrong == []


async def findings(there: Guarded, name: str | None) -> AsyncIterator[str]:
    """What is not as it should be."""
    for read, (selection, (readers, _)) in itertools.product(READS, [*TABLE.items(), *WHOLE.items()]):
        channel, whose = selection
        found = await refused(read(there, name, channel, key_of(there, name, whose)))
        signed_in = read is not by_ticket or name is not None
        for each in against(name, found, name in readers and signed_in):
            yield f"{read.__name__} {channel}/{whose}: {each}"
    for method, ((channel, whose), (_, writers)) in itertools.product(WRITES, TABLE.items()):
        if (name, channel) == ("masked", "postgres/entries") and method in ("PUT", "POST"):
            continue  # who does not see all of a row writes parts of it
        found = await write(there, name, method, channel, key_of(there, name, whose))
        for each in against(name, found, name in writers):
            yield f"{method} {channel}/{whose}: {each}"
    for (channel, _), (_, writers) in WHOLE.items():
        found = await write(there, name, "POST", channel, None)
        for each in against(name, found, name in writers):
            yield f"POST {channel}: {each}"


def against(name: str | None, found: Asked, allowed: bool) -> Iterator[str]:
    """What speaks against an answer."""
    if found.status not in expected(name, allowed):
        yield f"{found.status} {found.said[:200]!r}"
    if name != "admin" and OTHERS_TEXT.encode() in found.said:
        yield f"told of another's: {found.said[:300]!r}"
    if name not in ("admin", "editor", "narrow", "outside") and SECRET_TEXT.encode() in found.said:
        yield f"told of what is hidden: {found.said[:300]!r}"


async def cursor(there: Guarded, channel: str) -> str:
    """The beginning of the channel."""
    answer = await there.ask("admin", f"/v1/{channel}?wait=0")
    if answer.code != 200:
        return "v1.x.1"
    epoch = json.loads(answer.body)["cursor"].split(".")[1]
    return f"v1.{epoch}.0"
