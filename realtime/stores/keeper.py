"""Where a store without a home of its own keeps its last values, so that any node can answer and another take over.

Values and versions change in one step, and only from the state that the writer knows: of two nodes that both believe to
hold the feed, the one that is late is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from ..errors import StoreDown
from ..redis_pubsub import answering, client

KEY = "realtime:weather"  # a hash: `version`, and `=<key>` -> version, a space, value
ORIGIN = "0"  # sorts below every version

_SAVE = """
if (redis.call('HGET', KEYS[1], 'version') or ARGV[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[3])
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[i])
  else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
"""


class Item(Struct, frozen=True):
    version: str
    value: bytes


class Kept(Struct):
    """All that is kept, as of one moment; `version` is the last one given, of no item where that one is gone."""

    version: str = ORIGIN
    items: dict[str, Item] = field(default_factory=dict)


class Keeper(Protocol):
    async def load(self) -> Kept:
        """Raises StoreDown."""
        ...

    async def save(self, before: str, version: str, items: Mapping[str, Item | None]) -> bool:
        """Keep these (None: no more), unless the version is not `before`: then False. Raises StoreDown."""
        ...

    async def close(self) -> None: ...


class MemoryKeeper:
    def __init__(self) -> None:
        self._kept = Kept()

    async def load(self) -> Kept:
        return Kept(self._kept.version, dict(self._kept.items))

    async def save(self, before: str, version: str, items: Mapping[str, Item | None]) -> bool:
        if self._kept.version != before:
            return False
        merged = {**self._kept.items, **items}
        self._kept = Kept(version, {key: item for key, item in merged.items() if item is not None})
        return True

    async def close(self) -> None: ...


class RedisKeeper:
    def __init__(self, url: str, key: str = KEY) -> None:
        self._redis, self._key = client(url), key

    async def load(self) -> Kept:
        async with answering(StoreDown):
            fields: dict[Any, Any] = await self._redis.hgetall(self._key)
        version = fields.pop(b"version", ORIGIN.encode())
        return Kept(version.decode(), {name[1:].decode(): _item(text) for name, text in fields.items()})

    async def save(self, before: str, version: str, items: Mapping[str, Item | None]) -> bool:
        arguments: list[str | bytes] = [before, ORIGIN, version]
        for key, item in items.items():
            arguments += [f"={key}", b"" if item is None else b"%s %s" % (item.version.encode(), item.value)]
        async with answering(StoreDown):
            return bool(await self._redis.eval(_SAVE, 1, self._key, *arguments))

    async def close(self) -> None:
        await self._redis.aclose()


def _item(text: bytes) -> Item:
    version, _, value = text.partition(b" ")
    return Item(version.decode(), value)
