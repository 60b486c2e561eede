"""Tickets on a real Valkey: good once, on one of all nodes, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realtime import redis_pubsub
from realtime.auth.tickets import Tickets
from realtime.embedded import Embedded
from realtime.errors import BrokerDown, Unauthorized
from realtime.redis_pubsub import client
from realtime.rights import Identity

from ..valkey import valkey

ADA = Identity("ada", ("reader", "writer"), "token", "t1", "Ada", ("read:postgres/*",), 2e9)


@asynccontextmanager
async def nodes(url: str) -> AsyncIterator[tuple[Tickets, Tickets, Any]]:
    first, second, redis = Tickets(url), Tickets(url), client(url)
    yield first, second, redis
    for each in (first, second):
        await each.close()
    await redis.aclose()


@pytest.mark.asyncio
async def test_of_all_who_redeem_a_ticket_one_is_let_in(servers: Embedded) -> None:
    async with nodes(servers.urls["redis"]) as (first, second, _):
        text = await first.issue(ADA)
        asked = (each.redeem(text) for each in (first, second) * 10)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [each for each in answers if isinstance(each, Identity)] == [ADA]
        assert len([each for each in answers if isinstance(each, Unauthorized)]) == 19
        assert all(text not in str(each) for each in answers)


@pytest.mark.asyncio
async def test_each_ticket_is_another_one(servers: Embedded) -> None:
    async with nodes(servers.urls["redis"]) as (first, second, _):
        bob = Identity("bob", proof="sign-in", id="s1")
        texts = [await first.issue(ADA), await first.issue(bob)]
        assert {len(text) for text in texts} == {43}
        assert [await second.redeem(text) for text in reversed(texts)] == [bob, ADA]


@pytest.mark.asyncio
async def test_redis_does_not_know_the_secret(servers: Embedded) -> None:
    async with nodes(servers.urls["redis"]) as (first, _, redis):
        text = await first.issue(ADA)
        kept = [name async for name in redis.scan_iter("realtime:ticket:*")]
        assert len(kept) == 1
        value = await redis.get(kept[0])
        assert text.encode() not in kept[0] + value
        assert 0 < await redis.pttl(kept[0]) <= 30_000
        await first.redeem(text)
        assert await redis.exists(kept[0]) == 0


@pytest.mark.asyncio
async def test_an_old_ticket_is_refused(servers: Embedded) -> None:
    async with nodes(servers.urls["redis"]) as (first, _, redis):
        text = await first.issue(ADA)
        (name,) = [name async for name in redis.scan_iter("realtime:ticket:*")]
        await redis.pexpire(name, 1)
        async with asyncio.timeout(5):
            while await redis.exists(name):
                pass
        with pytest.raises(Unauthorized, match="older than 30 seconds"):
            await first.redeem(text)


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["", "x" * 43, "x" * 42, "x" * 5000, "é" * 43, "x" * 43 + "\n", "\ud800" * 43])
async def test_what_is_no_ticket_is_refused(servers: Embedded, text: str) -> None:
    async with nodes(servers.urls["redis"]) as (first, _, _):
        with pytest.raises(Unauthorized):
            await first.redeem(text)


@pytest.mark.asyncio
async def test_without_redis_there_are_no_tickets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_pubsub, "PATIENCE", 0.2)
    with valkey() as server:
        async with nodes(server.url) as (first, second, redis):
            text = await first.issue(ADA)
            await redis.client_pause(1000)  # there, and silent
            with pytest.raises(BrokerDown):
                await second.issue(ADA)
            await redis.client_unpause()
            server.kill()
            with pytest.raises(BrokerDown):
                await first.redeem(text)
            with pytest.raises(BrokerDown):
                await second.issue(ADA)
