"""Who is there is asked on every transport, and looked at again when it changes: on real accounts, on two nodes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
import pytest_asyncio
import websockets
from tornado.web import create_signed_value
from websockets.exceptions import InvalidStatus

from realtime.auth.gate import Shown
from realtime.embedded import Embedded
from realtime.errors import StoreDown
from realtime.handlers import outlet
from realtime.handlers.credentials import SIGN_IN
from realtime.rights import Identity
from tests.auth.issuer import AUDIENCE, ISSUER, SECRET
from tests.guarded import PASSWORD, Guarded, guarded
from tests.wait import until

pytestmark = pytest.mark.asyncio

RULES = """
[[rule]]
roles = ["reader"]
channels = ["redis/rooms"]
read = true

[[rule]]
roles = ["writer"]
channels = ["redis/*"]
read = true
write = true

[[rule]]
roles = ["*"]
channels = ["redis/notes"]
keys = ["{user}:*"]
read = true
write = true
"""
ROOMS = "/v1/redis/rooms"


@pytest_asyncio.fixture
async def there(servers: Embedded, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(servers, tmp_path, RULES, {"ann": ["reader"], "will": ["writer"]}, nodes=2) as found:
        yield found


def rewrite(there: Guarded, text: str) -> None:
    """As an editor does: another file takes the place of the old one."""
    new = there.rules.with_suffix(".new")
    new.write_text(text)
    os.replace(new, there.rules)


def outside(seconds: float, roles: list[str], sub: str = "olga") -> str:
    claims = {"sub": sub, "aud": AUDIENCE, "iss": ISSUER, "exp": time.time() + seconds, "roles": roles}
    return jwt.encode(claims, SECRET, "HS256")


async def test_rest_asks(there: Guarded) -> None:
    assert (await there.ask("will", f"{ROOMS}/attic", "PUT", 20)).code == 200
    assert (await there.ask("ann", f"{ROOMS}/attic")).body == b"20\n"
    refused = await there.ask(None, f"{ROOMS}/attic")
    assert (refused.code, refused.headers["WWW-Authenticate"]) == (401, 'Bearer realm="realtime"')
    assert (await there.ask("ann", f"{ROOMS}/attic", "PUT", 21)).code == 403
    for path in (
        "/v1/redis/secret",
        "/v1/redis/secret/1",
        "/v1/nostore/x",
        "/v1/mongo/rooms/1",
        "/v1/postgres/entries",
    ):
        assert (await there.ask("ann", path)).code == 403
        assert (await there.ask(None, path)).code == 401
    wrong = [
        await there.ask(None, ROOMS, Authorization=each) for each in ("Bearer rt_wrong", "Basic x", "Bearer a.b.c")
    ]
    assert [each.code for each in wrong] == [401] * 3
    assert json.loads((await there.ask("ann", "/v1/me")).body)["roles"] == ["reader"]
    assert (await there.ask(None, "/v1/ticket", "POST")).code == 401


async def test_the_stores_that_one_is_told_of(there: Guarded) -> None:
    await there.ask("will", f"{ROOMS}/attic?wait=1", "PUT", 20)
    seen = {name: json.loads((await there.ask(name, "/v1/stores")).body)["stores"] for name in ("ann", "will", None)}
    assert seen[None] == {}
    assert set(seen["ann"]) <= {"redis"}
    assert (await there.ask(None, "/readyz")).body == b'{"ready":true}\n'


async def test_a_websocket_by_token_by_ticket_and_by_saying_so(there: Guarded) -> None:
    async with there.connected("ann") as by_token:
        assert (await by_token.subscribe("redis/rooms"))["type"] == "subscribed"
        assert (await by_token.subscribe("redis/other", None, 2))["code"] == "forbidden"
        assert (await by_token.subscribe("nostore/x", "y", 3))["code"] == "forbidden"
    ticket = json.loads((await there.ask("ann", "/v1/ticket", "POST")).body)["ticket"]
    async with there.connected(query=f"?ticket={ticket}", node=1) as by_ticket:
        assert (await by_ticket.subscribe("redis/rooms"))["type"] == "subscribed"
    with pytest.raises(InvalidStatus) as used:
        async with there.connected(query=f"?ticket={ticket}"):
            pass
    assert used.value.response.status_code == 401
    async with there.connected() as by_word:
        assert (await by_word.subscribe("redis/rooms"))["code"] == "unauthorized"
        await by_word.say(type="auth", token="rt_wrong")
        assert (await by_word.next("error"))["code"] == "unauthorized"
        await by_word.say(type="auth", token=there.tokens["ann"])
        await by_word.say(type="subscribe", id=5, channel="redis/rooms")  # which waits for the answer
        assert (await by_word.next("authenticated"))["user"] == there.people["ann"].id
        assert (await by_word.next("subscribed"))["id"] == 5
        await by_word.say(type="auth", token=there.tokens["will"])
        assert (await by_word.next("error"))["code"] == "forbidden"


async def test_a_browser_that_is_signed_in(there: Guarded) -> None:
    """Its cookie opens a WebSocket where it says which page that is for, and a page of ours alone."""
    guard = there.nodes[0].door.guard
    assert guard is not None
    assert guard.keys is not None
    cookie = await signed_in(there)
    async with there.connected(Cookie=cookie, Origin=there.bases[0]) as ours:
        assert (await ours.subscribe("redis/rooms"))["type"] == "subscribed"
    for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        with pytest.raises(InvalidStatus) as refused:
            async with there.connected(node=0, Cookie=cookie, **headers):
                pass
        assert refused.value.response.status_code == 403
    assert (await there.ask(None, f"{ROOMS}/attic", Cookie=cookie)).code == 404
    tampered = cookie[:-1] + ("0" if cookie[-1] != "0" else "1")
    assert (await there.ask(None, f"{ROOMS}/attic", Cookie=tampered)).code == 401
    evil: dict[str, Any] = {"Cookie": cookie, "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert (await there.ask(None, "/v1/redis/notes/1", "PUT", 1, 0, **evil)).code == 403
    # beside a token no cookie counts
    assert (await there.ask(None, f"{ROOMS}/attic", Cookie=cookie, Authorization="Bearer rt_wrong")).code == 401


async def signed_in(there: Guarded, name: str = "ann") -> str:
    """The cookie of a browser."""
    guard = there.nodes[0].door.guard
    assert guard is not None
    assert guard.keys is not None
    secret, _ = await there.accounts.sign_in(f"{name}@example.org", PASSWORD, "127.0.0.1")
    secrets, version = guard.keys
    return f"{SIGN_IN}={create_signed_value(secrets, SIGN_IN, secret, key_version=version).decode()}"


async def test_what_is_revoked_ends_on_every_node(there: Guarded) -> None:
    cookie = await signed_in(there)
    async with (
        there.connected("ann", node=0) as first,
        there.connected("ann", node=1) as second,
        there.connected("will", node=1) as other,
        there.connected(Cookie=cookie, Origin=there.bases[1], node=1) as browser,
    ):
        for each in (first, second, other, browser):
            assert (await each.subscribe("redis/rooms"))["type"] == "subscribed"
        stream = asyncio.create_task(there.ask("ann", f"{ROOMS}?stream=ndjson", node=1))
        poll = asyncio.create_task(there.ask("ann", f"{ROOMS}/attic?wait=25&cursor={await cursor(there)}", node=1))
        await until_there(there, 6)
        connection = await asyncpg.connect(there.urls["postgres"])
        await connection.execute("DELETE FROM _realtime.tokens WHERE user_id = $1", there.people["ann"].id)
        await connection.close()
        assert [await each.closed() for each in (first, second)] == [4401, 4401]
        assert b'"subscribed"' in (await stream).body
        assert (await poll).code == 401
        assert (await there.ask("ann", ROOMS)).code == 401
        await there.accounts.change(there.people["ann"].id, disabled=True)
        assert await browser.closed() == 4401
        await other.say(type="ping")
        while (await other.next("event", "pong"))["type"] == "event":
            pass


async def test_what_is_revoked_on_the_way_in_ends(there: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the answer who that is and the moment from which they are looked at."""
    door = there.nodes[0].door
    who = door.gate.who

    async def and_then_revoked(shown: Shown) -> Identity:
        identity, turn = await who(shown), door.turn
        await there.accounts.revoke(there.people["ann"].id, identity.id)
        await until(lambda: door.turn != turn)
        return identity

    monkeypatch.setattr(door.gate, "who", and_then_revoked)
    async with there.connected("ann") as ann:
        assert await ann.closed() == 4401


@pytest.mark.expects_logs
@pytest.mark.parametrize("failure", [StoreDown("postgres is away"), RuntimeError("our mistake")])
async def test_whom_nobody_can_be_asked_about_is_asked_about_again(
    there: Guarded, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    door, failures = there.nodes[0].door, [failure, failure]
    still = door.gate.still

    async def fails_at_first(identity: Identity) -> Identity | None:
        if failures:
            raise failures.pop()
        return await still(identity)

    async with there.connected("ann") as ann:
        assert (await ann.subscribe("redis/rooms"))["type"] == "subscribed"
        monkeypatch.setattr(door.gate, "still", fails_at_first)
        [token] = await there.accounts.tokens(there.people["ann"].id)
        await there.accounts.revoke(there.people["ann"].id, token.id)
        assert await ann.closed() == 4401
        assert failures == []


async def cursor(there: Guarded) -> str:
    answer = await there.ask("will", f"{ROOMS}/attic", "PUT", 20)
    assert answer.code == 200
    answer = await there.ask("will", f"{ROOMS}/attic", "PUT", 21)
    while True:
        found: str = json.loads((await there.ask("will", f"{ROOMS}/attic?wait=0")).body)["cursor"]
        later = json.loads((await there.ask("will", f"{ROOMS}/attic?wait=0.2&cursor={found}")).body)
        if not later["events"]:
            return str(later["cursor"])


async def until_there(there: Guarded, number: int) -> None:
    await until(lambda: sum(len(each.door._open) for each in there.nodes) == number)


async def test_what_expires_is_renewed_or_ends(there: Guarded) -> None:
    async with there.connected(Authorization=f"Bearer {outside(3, ['reader'])}") as ends:
        warned = await ends.next("auth_expiring")
        assert warned["seconds"] <= 3
        assert (await ends.subscribe("redis/rooms"))["type"] == "subscribed"
        async with there.connected(Authorization=f"Bearer {outside(3, ['reader'])}") as renewed:
            await renewed.next("auth_expiring")
            await renewed.say(type="auth", token=outside(3600, ["reader"]))
            assert (await renewed.next("authenticated"))["user"] == "olga"
            assert await ends.closed() == 4401
            assert (await renewed.subscribe("redis/rooms"))["type"] == "subscribed"
    stream = await there.ask(None, f"{ROOMS}?stream=ndjson", Authorization=f"Bearer {outside(1, ['reader'])}")
    assert b'"subscribed"' in stream.body


async def test_a_change_of_rules_reaches_who_is_there(there: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    mine = f"{there.people['ann'].id}:1"
    for path in ("/v1/redis/rooms/attic?wait=1", f"/v1/redis/notes/{mine}?wait=1"):
        assert (await there.ask("will", path, "PUT", 1)).code in (200, 202)
    async with there.connected("ann") as ann, there.connected("will") as will:
        assert (await ann.subscribe("redis/rooms"))["items"] == {"attic": 1}
        assert (await ann.subscribe("redis/rooms", "attic", 2))["items"] == {"attic": 1}
        assert (await ann.subscribe("redis/notes", None, 3))["items"] == {mine: 1}
        assert (await will.subscribe("redis/notes"))["items"] == {mine: 1}
        rewrite(
            there,
            RULES.replace('channels = ["redis/rooms"]', 'channels = ["redis/cellar"]').replace("{user}:*", "none"),
        )
        left = [await ann.next("leave", "reset") for _ in range(3)]
        assert sorted(each["type"] for each in left) == ["leave", "leave", "reset"]
        assert [each.get("key") for each in left if each["type"] == "leave"] == [None, "attic"]
        assert [(each["channel"], each["items"], each["reason"]) for each in left if each["type"] == "reset"] == [
            ("redis/notes", {}, "rights")
        ]
        assert (await ann.subscribe("redis/rooms"))["code"] == "forbidden"
        assert (await ann.subscribe("redis/cellar", None, 9))["type"] == "subscribed"
        rewrite(there, RULES)
        shown = await ann.next("reset", "leave")
        while shown["type"] == "leave":
            shown = await ann.next("reset", "leave")
        assert shown["items"] == {mine: 1}
        assert (await there.ask("will", f"/v1/redis/notes/{mine}", "PUT", 2)).code == 200
        assert (await ann.next("event"))["value"] == 2
        assert (await will.next("event"))["value"] == 2  # to whom nothing else was said all the while


@pytest.mark.expects_logs
async def test_rules_that_are_none_change_nothing(there: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    async with there.connected("ann") as ann:
        assert (await ann.subscribe("redis/rooms"))["type"] == "subscribed"
        rewrite(there, "[[rule]]\nroles = 7")
        await until(lambda: sum("the rules before it hold on" in each.getMessage() for each in caplog.records) == 2)
        await ann.say(type="ping")
        assert await ann.next("pong")


async def test_a_change_of_role_reaches_who_is_there(there: Guarded) -> None:
    async with there.connected("ann", node=1) as ann:
        assert (await ann.subscribe("redis/rooms"))["type"] == "subscribed"
        await there.accounts.change(there.people["ann"].id, roles=[])
        assert (await ann.next("leave"))["channel"] == "redis/rooms"
        await there.accounts.change(there.people["ann"].id, roles=["writer"])
        answer = await ann.subscribe("redis/other")
        while answer["type"] == "error":  # it is on its way
            answer = await ann.subscribe("redis/other")
        assert answer["type"] == "subscribed"


async def test_nobody_stays_for_ever(there: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "UNKNOWN", 0.2)
    async with there.connected() as nobody:
        assert await nobody.closed() == 4401
    rewrite(there, RULES + '[[rule]]\nroles = ["anonymous"]\nchannels = ["redis/public"]\nread = true\n')
    await until(lambda: there.nodes[0].door.gate.anonymous)
    async with there.connected() as somebody:
        assert (await somebody.subscribe("redis/public"))["type"] == "subscribed"
        assert (await somebody.subscribe("redis/rooms", None, 2))["code"] == "unauthorized"
        assert somebody.connection.state is websockets.State.OPEN
