"""A whole node on memory in a thread of its own, for clients that block: the fuzzers' tools, and sockets by hand.

What it logs reaches the test's `caplog`, so that whatever goes wrong in the thread fails the test as anywhere else.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from realtime.app import Service
from realtime.brokers.memory import MemoryBroker
from realtime.config import Config, Limits
from realtime.embedded import Embedded
from realtime.stores.memory import MemoryStore
from tests.cluster import cluster
from tests.wait import until

T = TypeVar("T")
PAGE = resource.getpagesize()
ANY = 1_000_000_000
# Fuzzers are floods: what floods meet is in tests/handlers/test_limits.py.
FLOODED = Config(
    port=0,
    drain=1,
    limits=Limits(messages=ANY, subscribes=ANY, user_messages=ANY, writes=ANY, address_connections=ANY),
)


class Running:
    """One that runs, and what it holds."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service, self._loop = service, loop
        self.port = service.port
        self.base = f"http://127.0.0.1:{service.port}"

    def holds(self) -> dict[str, float]:
        """What has to be as it was when everybody has gone."""
        found: Future[dict[str, float]] = Future()
        self._loop.call_soon_threadsafe(lambda: found.set_result(self._counted()))
        return found.result(10)

    def _counted(self) -> dict[str, float]:
        registry = self.service.metrics.registry
        transports = ("websocket", "sse", "ndjson", "poll")
        names = {each: ("realtime_connections", {"transport": each}) for each in transports}
        names |= {"subscriptions": ("realtime_subscriptions", {}), "tasks": ("realtime_tasks", {})}
        return {short: registry.get_sample_value(*name) or 0 for short, name in names.items()}

    def settles(self, before: dict[str, float]) -> None:
        """Fails with what is left over."""
        with suppress(TimeoutError):
            asyncio.run(until(lambda: self.holds() == before))
        now = self.holds()
        assert now == before, f"left over: {now}, before: {before}"


def memory() -> int:
    """Bytes of this process, once what is garbage is gone."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@contextmanager
def running(config: Config = FLOODED) -> Iterator[Running]:
    with _thread() as loop:
        broker = MemoryBroker()
        service = asyncio.run_coroutine_threadsafe(_service(config, broker), loop).result(10)
        try:
            yield Running(service, loop)
        finally:
            asyncio.run_coroutine_threadsafe(service.close(), loop).result(10)


@contextmanager
def running_on(servers: Embedded) -> Iterator[Running]:
    """The same on the real servers."""
    with _thread() as loop, _entered(cluster(servers, 1, limits=FLOODED.limits), loop) as [service]:
        yield Running(service, loop)


@contextmanager
def in_thread(something: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """It, open, while its loop runs in a thread."""
    with _thread() as loop, _entered(something, loop) as entered:
        yield entered


@contextmanager
def _entered(something: AbstractAsyncContextManager[T], loop: asyncio.AbstractEventLoop) -> Iterator[T]:
    async def enter() -> T:
        return await something.__aenter__()

    async def leave() -> None:
        await something.__aexit__(None, None, None)

    entered = asyncio.run_coroutine_threadsafe(enter(), loop).result(30)
    try:
        yield entered
    finally:
        asyncio.run_coroutine_threadsafe(leave(), loop).result(30)


@contextmanager
def _thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="node")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _service(config: Config, broker: MemoryBroker) -> Service:
    service = Service(config, broker, [MemoryStore("memory")], "node-1")
    await service.open()
    await until(lambda: "memory" in broker.wire.marks)
    return service
