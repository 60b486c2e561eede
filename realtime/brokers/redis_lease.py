"""The lease of one store's feed, in Redis: a key with a time to live and the holder's token in it.

Every step of a holder compares the token within the step itself, so that one that was frozen and woke up late changes
nothing. The clock that counts is the holder's own: it stops before the key can have expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.resources import files
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis

from ..errors import BrokerDown
from ..redis_pubsub import answering
from ..tasks import delays
from .base import LeaseLost
from .keys import LEASE, LOG, MARK, META, NODE

LIFETIME = 5.0  # seconds that a frozen holder keeps the others waiting
RENEWAL = 1.0  # seconds between two renewals
LONGEST_WAIT = 0.3  # seconds between two tries to get it
PORTION = 100  # channels renewed in one step

ACQUIRE = files(__package__).joinpath("acquire.lua").read_text()
_HOLDING = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
EXTEND = _HOLDING + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
RELEASE = _HOLDING + "return redis.call('DEL', KEYS[1])"
KEEP = _HOLDING + "redis.call('SET', KEYS[2], ARGV[2]) return 1"
# Without its meta a channel opens a new epoch at its next use; the empty message makes the nodes use it now.
RENEW = _HOLDING + (
    "for i = 2, #KEYS, 2 do redis.call('DEL', KEYS[i], KEYS[i + 1]) redis.call('PUBLISH', KEYS[i], '') end return 1"
)


class RedisLease:
    def __init__(self, redis: Redis, node: str, store: str) -> None:
        self._redis, self._node, self._store = redis, node, store
        self._token = f"{node}/{token_hex(6)}"
        self._until = 0.0  # on the loop's clock
        self._seen, self._seen_until = "", 0.0  # another holder, while we wait
        self.mark: str | None = None
        self.before = ""

    async def acquire(self) -> None:
        for pause in delays(0.02, LONGEST_WAIT):
            if await self._try():
                return
            await asyncio.sleep(pause)

    async def _try(self) -> bool:
        asked = asyncio.get_running_loop().time()
        async with answering(BrokerDown):
            taken, token, left, mark = await self._redis.register_script(ACQUIRE)(
                [LEASE + self._store, MARK + self._store], [self._token, int(LIFETIME * 1000), NODE]
            )
        other = self._other(token)
        if taken:
            self._until = asked + LIFETIME
            self.mark = None if mark is None else mark.decode()
            self.before = f"{other} is gone" if other else self._ending()
        elif other:
            self._seen, self._seen_until = other, asked + left / 1000
        return bool(taken)

    def _other(self, token: bytes | None) -> str:
        """The holder's name, without what makes it unique; empty where it is nobody, or this node."""
        node = "" if token is None else token.decode().partition("/")[0]
        return "" if node == self._node else node.rpartition(".")[0] or node

    def _ending(self) -> str:
        """What became of the holder that was seen last."""
        if not self._seen:
            return ""
        over = asyncio.get_running_loop().time() >= self._seen_until
        return f"{self._seen} let it run out" if over else f"{self._seen} no longer has it"

    async def loss(self) -> str:
        """Renews the lease until it is lost, and says why."""
        loop = asyncio.get_running_loop()
        while (left := self._until - loop.time()) > 0:
            await asyncio.sleep(min(RENEWAL, left))
            asked = loop.time()
            try:
                async with asyncio.timeout_at(self._until):
                    if not await self._held(EXTEND, [], [int(LIFETIME * 1000)]):
                        return f"the lease of {self._store} is not held here"
                self._until = asked + LIFETIME
            except (BrokerDown, TimeoutError):
                continue
        return f"the lease of {self._store} could not be renewed in time"

    async def release(self) -> None:
        if asyncio.get_running_loop().time() < self._until:  # else it has ended by itself
            await self._held(RELEASE, [], [])

    async def keep(self, mark: str) -> None:
        self._check(await self._held(KEEP, [MARK + self._store], [mark]))

    async def renew(self, collections: Sequence[str] | None, reason: str) -> None:
        channels = (
            await self._channels()
            if collections is None
            else [f"{self._store}/{collection}" for collection in collections]
        )
        for start in range(0, len(channels), PORTION):
            keys = [key for channel in channels[start : start + PORTION] for key in (LOG + channel, META + channel)]
            self._check(await self._held(RENEW, keys, []))

    async def _channels(self) -> list[str]:
        """All of the store's that have an epoch now; one that opens its first later needs no other."""
        redis: Any = self._redis  # its annotations do not know that replies are bytes
        metas, cursor = set[bytes](), None
        while cursor != 0:
            async with answering(BrokerDown):
                cursor, found = await redis.scan(cursor or 0, match=f"{META}{self._store}/*", count=1000)
            metas.update(found)
        return [meta.decode().removeprefix(META) for meta in metas]

    async def _held(self, script: str, keys: list[str], args: list[str | int]) -> bool:
        async with answering(BrokerDown):
            return bool(await self._redis.register_script(script)([LEASE + self._store, *keys], [self._token, *args]))

    def _check(self, held: bool) -> None:
        if not held:
            raise LeaseLost(f"the lease of {self._store} is not held here")
