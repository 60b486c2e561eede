"""Redis as redis-cli reaches it: strings by name. Of what is written so, only the final state is promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ...errors import NotFound
from ...redis_pubsub import NEVER, SETTINGS
from ...stores.redis_items import to_json
from ..stage import Stage
from .base import bounded

PAGE = 1000  # names looked at in one step of the server

_DOUBTS = (RedisError,)


class Keys:
    store = "redis"
    routes: tuple[str, ...] = ("redis-cli",)
    exact = False

    def __init__(self, stage: Stage) -> None:
        self._url, self._prefix = stage.urls[self.store], f"{stage.collection}:"

    async def open(self) -> None:
        """Connections are made when they are needed. No retries: one may be made long after the first try."""
        self._redis = Redis.from_url(self._url, retry=NEVER, **SETTINGS)

    async def close(self) -> None:
        await self._redis.aclose()

    async def make(self) -> None:
        """The first key makes it."""

    async def drop(self) -> None:
        async with bounded(_DOUBTS):
            if names := await self._names():
                await self._redis.delete(*names)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        async with bounded(_DOUBTS):
            await self._redis.set(self._prefix + key, msgspec.json.encode(value))

    async def delete(self, key: str) -> None:
        async with bounded(_DOUBTS):
            deleted = await self._redis.delete(self._prefix + key)
        if not deleted:
            raise NotFound(f"no {self._prefix + key!r}")

    async def read(self) -> dict[str, Any]:
        """Strings only: nobody writes anything else here."""
        async with bounded(_DOUBTS):
            names = await self._names()
            values: Sequence[Any] = await self._redis.mget(names) if names else []
        found = zip(names, values, strict=True)
        shown = ((name, to_json(b"string", value)) for name, value in found if value is not None)
        return {name.decode().removeprefix(self._prefix): msgspec.json.decode(value) for name, value in shown if value}

    async def _names(self) -> list[bytes]:
        """SCAN may say one twice."""
        return sorted({name async for name in self._redis.scan_iter(match=f"{self._prefix}*", count=PAGE)})
