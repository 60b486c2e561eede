"""Who the client says it is, at a service that asks; what is refused has its type, and what expires is renewed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from realtime.client import Event, Forbidden, Snapshot, Unauthorized, connect
from realtime.embedded import Embedded
from tests.auth import issuer
from tests.guarded import Guarded, guarded
from tests.wait import until

pytestmark = pytest.mark.asyncio

RULES = """
[[rule]]
roles = ["writer"]
channels = ["redis/*"]
read = true
write = true
"""


@pytest_asyncio.fixture
async def there(servers: Embedded, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(servers, tmp_path, RULES, {"will": ["writer"], "ann": []}) as found:
        yield found


def token_for(seconds: float) -> str:
    return issuer.token(sub="jo", roles=["writer"], exp=time.time() + seconds)


async def test_with_a_token(there: Guarded) -> None:
    async with connect(there.bases[0], token=there.tokens["will"]) as live:
        watch = live.watch("redis/rooms")
        assert isinstance(await anext(watch), Snapshot)
        await live.put("redis/rooms", "attic", 1)
        event = await anext(watch)
        assert isinstance(event, Event)
        assert event.value == 1


async def test_without_a_right(there: Guarded) -> None:
    async with connect(there.bases[0], token=there.tokens["ann"]) as live:
        with pytest.raises(Forbidden):
            await anext(live.watch("redis/rooms"))
        with pytest.raises(Forbidden):
            await live.get("redis/rooms", "attic")
        with pytest.raises(Forbidden):
            await live.replica("redis/rooms")


async def test_without_a_token_that_holds(there: Guarded) -> None:
    for token in (None, "rt_nonsense", lambda: "rt_nonsense"):
        async with connect(there.bases[0], token=token) as live:
            with pytest.raises(Unauthorized):
                await anext(live.watch("redis/rooms"))
            with pytest.raises(Unauthorized):
                await live.get("redis/rooms", "attic")


async def test_a_right_that_is_taken_away(there: Guarded) -> None:
    async with connect(there.bases[0], token=there.tokens["will"]) as live:
        await live.put("redis/notes", "a", 1, wait=True)
        notes = await live.replica("redis/notes")
        assert dict(notes) == {"a": 1}
        watch = live.watch("redis/rooms")
        await anext(watch)
        await there.accounts.change(there.people["will"].id, roles=())
        with pytest.raises(Forbidden):
            await anext(watch)
        with pytest.raises(Forbidden):
            await notes.changed()
        assert dict(notes) == {}


async def test_a_token_that_expires_is_renewed(there: Guarded) -> None:
    asked: list[float] = []

    async def ask() -> str:
        asked.append(time.time())
        return token_for(32 if len(asked) == 1 else 600)  # the service warns thirty seconds before

    async with connect(there.bases[0], token=ask) as live:
        watch = live.watch("redis/rooms")
        await anext(watch)
        [session] = there.nodes[0].door._open
        before = session.identity.expires
        assert before is not None
        await until(lambda: session.identity.expires != before)
        await live.put("redis/rooms", "attic", 1)
        assert isinstance(await anext(watch), Event)
        assert (len(asked), [session]) == (2, list(there.nodes[0].door._open))


async def test_a_token_that_has_ended_is_asked_for_again(there: Guarded) -> None:
    """By both doors: a request that is answered 401, and a WebSocket that is closed with 4401."""
    old = there.tokens["will"]
    given = [old]
    async with connect(there.bases[0], token=lambda: given[-1]) as live:
        watch = live.watch("redis/rooms", mode="all")
        await anext(watch)
        await live.put("redis/rooms", "attic", 1)
        will = there.people["will"].id
        _, newer = await there.accounts.issue(will, "newer", ("read", "write"), None)
        given.append(newer)
        for token in await there.accounts.tokens(will):
            if token.name == "test":
                await there.accounts.revoke(will, token.id)
        await live.put("redis/rooms", "attic", 2, wait=True)
        values = [event.value for event in [await anext(watch), await anext(watch)] if isinstance(event, Event)]
        assert values == [1, 2]


async def test_what_the_asked_raises_is_heard(there: Guarded) -> None:
    class Away(Exception):
        pass

    def ask() -> str:
        raise Away

    async with connect(there.bases[0], token=ask) as live:
        with pytest.raises(Away):
            await live.get("redis/rooms", "attic")
        with pytest.raises(Away):
            await anext(live.watch("redis/rooms"))
