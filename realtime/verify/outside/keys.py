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

_DOUBTS = (RedisError,)


class Keys:
    store = "redis"
    routes: tuple[str, ...] = ("redis-cli",)
    exact = False

    def __init__(self, stage: Stage) -> None:
        self._stage, self._prefix = stage, f"{stage.collection}:"

    async def open(self) -> None:
        """Connections are made when they are needed. No retries: one may be made long after the first try."""
        self._redis = Redis.from_url(self._stage.urls[self.store], retry=NEVER, **SETTINGS)

    async def close(self) -> None:
        await self._redis.aclose()

    async def make(self) -> None:
        """The first key makes it."""

    async def drop(self) -> None:
        async with bounded(_DOUBTS):
            if names := self._names():
                await self._redis.unlink(*names)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        self._stage.names.add(key)
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
            names = self._names()
            values: Sequence[Any] = await self._redis.mget(names) if names else []
        found = zip(names, values, strict=True)
        shown = ((name, to_json(b"string", value)) for name, value in found if value is not None)
        return {name.removeprefix(self._prefix): msgspec.json.decode(value) for name, value in shown if value}

    def _names(self) -> list[str]:
        """A SCAN would look at all that others have, each time."""
        return [self._prefix + key for key in sorted(self._stage.names)]
