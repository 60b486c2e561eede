"""What others write to Redis: told by keyspace notifications, and found by sweeps where those are silent.

A notification has no value and may be lost, FLUSHDB and SWAPDB send none; so it only says where to look, and all keys
are looked at after each break and now and then. Looking (`reconcile`) compares a key with what was told of it last, so
that it may be done too often but not wrongly; many notifications of one key cost one look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.resources import files
from itertools import islice
from typing import Any, Literal, Self

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..errors import StoreDown
from ..redis_pubsub import PubSub, answering, failing_as

log = logging.getLogger("realtime.stores.redis")

FLAGS = "Kg$xhlsz"  # keyspace, generic, strings, expired, hashes, lists, sets, sorted sets
SETTING = "notify-keyspace-events"
SWEEP = 60.0  # seconds between two sweeps
SWEEP_BLIND = 2.0  # where the server does not notify
SHARE = 20  # a sweep rests this many times as long as it took, so that it never has the server to itself
PORTION = 100  # keys looked at in one step of the server
STEP = 1000  # names found in one
WAITING = 100_000  # keys to look at; beyond these, a sweep looks at all

_GONE = files(__package__).joinpath("redis_gone.lua").read_text()

By = Literal["notification", "sweep"]
Reconcile = Callable[[Sequence[bytes], By], Awaitable[int]]  # names -> how many had changed


class Foreign:
    """Looks after the writes of others for as long as it is entered; `check` raises what ended it."""

    def __init__(self, url: str, redis: Redis, seen: str, reconcile: Reconcile) -> None:
        database = redis.connection_pool.connection_kwargs.get("db") or 0
        self._prefix = f"__keyspace@{database}__:".encode()
        self._redis, self._seen, self._reconcile = redis, seen, reconcile
        self._gone = redis.register_script(_GONE)
        self._pubsub = PubSub(
            url, self._prefix + b"*", heard=self._heard, recovered=self._recovered, broken=lambda: None
        )
        self._waiting: dict[bytes, None] = {}
        self._wake = asyncio.Event()
        self._due = 0.0  # when the next sweep is, on the loop's clock
        self._again = False  # something was missed since the last one began
        self._sweeping = asyncio.Lock()
        self._blind = False

    async def __aenter__(self) -> Self:
        self._pubsub.open()
        try:
            with failing_as(StoreDown):
                await self._pubsub.subscribe(self._prefix + b"*")
        except BaseException:
            await self._pubsub.close()
            raise
        self._task = asyncio.create_task(self._run(), name="redis writes of others")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._pubsub.close()

    def check(self) -> None:
        if self._task.done():
            self._task.result()

    async def sweep(self, *, now: bool = True) -> None:
        """Look at every key there is, and at every key that there was."""
        loop = asyncio.get_running_loop()
        async with self._sweeping:
            began = loop.time()
            if not now and began < self._due:
                return  # somebody else has just done it
            self._again = False
            await self._ask_for_notifications()
            found = 0
            async for names in self._names():
                found += await self._look(names, "sweep")
                await self._look_where_told()
            if found and not self._blind:
                log.info("a look at all keys found %d writes by others", found)
            rest = max(SWEEP_BLIND if self._blind else SWEEP, SHARE * (loop.time() - began))
            self._due = 0.0 if self._again else loop.time() + rest

    def _heard(self, channel: bytes, _: bytes) -> None:
        if len(self._waiting) < WAITING:
            self._waiting[channel.removeprefix(self._prefix)] = None
            self._wake.set()
        else:
            self._recovered()

    def _recovered(self) -> None:
        self._due, self._again = 0.0, True
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self._look_where_told()
            await self.sweep(now=False)
            try:
                async with asyncio.timeout_at(self._due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look_where_told(self) -> None:
        while names := list(islice(self._waiting, PORTION)):
            for name in names:
                del self._waiting[name]
            await self._look(names, "notification")

    async def _look(self, names: Sequence[bytes], by: By) -> int:
        found = 0
        for start in range(0, len(names), PORTION):
            found += await self._reconcile(names[start : start + PORTION], by)
        return found

    async def _names(self) -> AsyncIterator[Sequence[bytes]]:
        redis: Any = self._redis  # its annotations do not know that replies are bytes
        cursor = None
        while cursor != 0:
            async with answering(StoreDown):
                cursor, names = await redis.scan(cursor or 0, count=STEP)
            yield names
        cursor = None
        while cursor != b"0":
            async with answering(StoreDown):
                cursor, names = await self._gone([self._seen], [cursor or 0, STEP])
            yield names

    async def _ask_for_notifications(self) -> None:
        """They are off unless somebody asked, and off again after a restart of a server that was asked like this."""
        async with answering(StoreDown):
            refusal = await self._switch_on()
        if refusal and not self._blind:
            log.warning(
                "writes by others are found every %g s only, as the server does not notify: %s; to mend it: "
                "redis-cli config set %s '%s'",
                *(SWEEP_BLIND, refusal, SETTING, FLAGS),
            )
        self._blind = refusal is not None

    async def _switch_on(self) -> str | None:
        """The server's words where it refuses."""
        try:
            flags = str((await self._redis.config_get(SETTING)).get(SETTING, ""))
            if not _enough(flags):
                await self._redis.config_set(SETTING, "".join(sorted({*flags, *FLAGS})))
        except ResponseError as error:
            return str(error)
        return None


def _enough(flags: str) -> bool:
    every = set(flags) | (set("g$lshzxetd") if "A" in flags else set())
    return set(FLAGS) <= every
