"""A whole node on memory, in the test's own loop, as a client is given it: by its address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import pytest_asyncio

from realtime.app import Service
from realtime.brokers.memory import MemoryBroker
from realtime.config import Config, Limits
from realtime.stores.memory import MemoryStore
from tests.wait import until


class Node:
    """`store` and `broker` are there for what goes on behind the service's back."""

    def __init__(self, port: int = 0, history: int = 1000, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.store, self.broker = MemoryStore("memory"), MemoryBroker(history=history)
        self.service = Service(Config(port=port, drain=2, limits=limits), self.broker, [self.store], "node-1")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    @property
    def sessions(self) -> int:
        """Subscriptions that clients have here."""
        return sum(len(each.session.subscriptions) for each in self.service.door._open)


Nodes = Callable[..., AbstractAsyncContextManager[Node]]


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    await node.service.open()
    try:
        await until(lambda: "memory" in node.broker.wire.marks)
        yield node
    finally:
        await node.service.close()


@pytest.fixture
def run_node() -> Nodes:
    return lambda **options: running(Node(**options))


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    async with running(Node()) as node:
        yield node
