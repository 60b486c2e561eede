"""What a run takes place on: embedded servers, nodes as processes, each behind links of its own; or a given cluster.

Everything of a stage of our own can be broken and is gone when it is closed; of a given one nothing is ours but the
collection.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from signal import Signals
from typing import Any, NamedTuple, Self

from redis.exceptions import RedisError
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from .. import embedded, redis_pubsub
from ..brokers.keys import LEASE, MARK
from ..embedded import Embedded
from ..errors import StartError
from ..tasks import together
from . import links
from .process import NodeProcess

__all__ = ["NODE", "NodeProcess", "Stage", "given_stage", "open_stage"]

log = logging.getLogger("realtime.verify.stage")

NODE = (sys.executable, "-m", "realtime.verify.node")
STORES = ("postgres", "mongo", "redis")
FEEDS = (*STORES, "weather")
READY = 30.0  # seconds for all nodes to be ready
PATIENCE = 0.5  # seconds for Redis to answer
LOOK = 0.05  # seconds between two looks

Say = Callable[[str], None]


class Lease(NamedTuple):
    """`token`: another one each time that a node, or the same one started again, takes it."""

    token: str
    holder: NodeProcess


class Stage:
    """`nodes`: those that are processes of our own. `owned`: what is ours to break, `nodes` and stores.

    `collection`: of this run alone, in each store; `names`: all keys that it may have, so that nobody has to look
    through what others have beside it. `urls`: of the stores themselves, past all links.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        addresses: Sequence[str] = (),
        nodes: Sequence[NodeProcess] = (),
        servers: Embedded | None = None,
    ) -> None:
        self.urls, self.nodes = urls, nodes
        self.collection = f"verify_{token_hex(4)}"
        self.names: set[str] = set()
        self.owned = frozenset({"nodes", *STORES} if servers else ())
        self._addresses, self._servers = addresses, servers
        self._redis = redis_pubsub.client(urls["redis"]) if "redis" in urls else None
        self._http = AsyncHTTPClient(force_instance=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._http.close()
        if self._redis:
            await self._redis.aclose()

    @property
    def stores(self) -> list[str]:
        """Those that can have the collection: a table has to be made, for which the address is needed."""
        return [store for store in STORES if store != "postgres" or store in self.urls]

    def addresses(self) -> list[str]:
        """Of the nodes that a client may try now."""
        return [*self._addresses, *(node.address for node in self.nodes if node.up)]

    async def ready(self, seconds: float = READY) -> None:
        """Until all nodes are that are up. Raises StartError where that takes too long, or one died unasked."""
        troubles = ["not asked yet"]
        try:
            async with asyncio.timeout(seconds):
                while troubles := await self._troubles():
                    self.check()
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise StartError(f"not ready after {seconds:g} s: {'; '.join(troubles)}") from None

    def check(self) -> None:
        """Raises StartError where a node or a server of our own has ended and nobody asked it to."""
        for node in self.nodes:
            node.check()
        if self._servers is not None:
            self._servers.check()

    async def _troubles(self) -> list[str]:
        marks = [self._begun(store) for store in FEEDS if self.nodes]
        return [*filter(None, await asyncio.gather(*map(self._trouble, self.addresses()), *marks))]

    async def _begun(self, store: str) -> str:
        """Whether the store's feed has kept a mark: what was written before its first one is in no log."""
        return "" if await self._known(MARK + store) else f"the feed of {store} has not begun"

    async def _trouble(self, address: str) -> str:
        """Why a node is not ready."""
        try:
            answer = await self._http.fetch(f"{address}/readyz", raise_error=False, request_timeout=5)
        except (HTTPClientError, OSError) as error:  # a time-out is raised all the same
            return f"{address}: {error}"
        return "" if answer.code == 200 else f"{address}: {answer.body.decode(errors='replace') or answer.reason}"

    async def lease(self, store: str) -> Lease | None:
        """Of a store's feed; None: nobody holds it, or Redis is down."""
        token = await self._known(LEASE + store)
        name = token.rpartition("/")[0].rpartition(".")[0]
        return next((Lease(token, node) for node in self.nodes if node.name == name), None)

    async def holder(self, store: str) -> NodeProcess | None:
        """The node that holds the lease of a store's feed, dead or alive."""
        lease = await self.lease(store)
        return lease.holder if lease else None

    async def _known(self, key: str) -> str:
        """What Redis has under a name; nothing where it does not answer at once."""
        if self._redis is None:
            return ""
        try:
            async with asyncio.timeout(PATIENCE):
                value: Any = await self._redis.get(key)
        except (RedisError, OSError):  # a time-out is one
            return ""
        return (value or b"").decode()

    # the servers, where they are ours ---------------------------------------------------------------------------------

    async def kill_server(self, name: str, how: Signals = Signals.SIGKILL) -> None:
        """End a server by that signal; returns when all of its processes are gone."""
        await self._own.kill(name, how)

    async def start_server(self, name: str, words: Sequence[str] = ()) -> None:
        """Start a killed one on the same data, with further words on its command line, this time. Raises StartError."""
        await self._own.revive(name, words)
        for node in self.nodes:
            node.links[name].upstream = links.upstream(name, self.urls[name])

    def server_home(self, name: str) -> Path:
        """Where a server has its data: to be changed only while it is killed, and emptied rather than removed."""
        return self._own.home(name)

    @property
    def _own(self) -> Embedded:
        if self._servers is None:
            raise ValueError("the servers are not ours")
        return self._servers


@asynccontextmanager
async def open_stage(
    data: Path, nodes: int, program: Sequence[str] = NODE, say: Say = log.info
) -> AsyncIterator[Stage]:
    """Servers and nodes of our own in `data`, ready. Their logs there stay. Raises StartError."""
    async with AsyncExitStack() as stack:
        servers = await embedded.start(data, STORES, say)
        stack.push_async_callback(servers.close)
        # not in `data`, which may be too long for a socket's name
        private = Path(tempfile.mkdtemp(prefix="realtime-"))
        stack.callback(shutil.rmtree, private, ignore_errors=True)
        started = [
            await _node(stack, f"node-{number}", data, program, servers, private) for number in range(1, nodes + 1)
        ]
        await together({node.name: node.start() for node in started})
        stage = await stack.enter_async_context(Stage(servers.urls, nodes=started, servers=servers))
        await stage.ready()
        yield stage


def given_stage(addresses: Sequence[str], urls: Mapping[str, str]) -> Stage:
    """A cluster that runs already; `urls`: of its stores, as far as they are known."""
    return Stage(urls, addresses=addresses)


async def _node(
    stack: AsyncExitStack, name: str, data: Path, program: Sequence[str], servers: Embedded, private: Path
) -> NodeProcess:
    """Behind links of its own, not started yet."""
    sockets = private / name
    sockets.mkdir(mode=0o700)
    node_links = await stack.enter_async_context(links.opened(servers.urls, sockets))
    node = NodeProcess(name, data, program, servers.urls, node_links)
    stack.push_async_callback(node.close)
    return node
