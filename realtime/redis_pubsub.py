"""What the Redis broker and the Redis store share: a client that does not wait long, and a watched pub/sub connection.

A pub/sub connection may go deaf without an error: redis-py reconnects and resubscribes in silence, and behind a black
hole nothing is raised at all. So this one has no retries of its own, is pinged when it is quiet, is rebuilt when it
stays silent, and says when it broke and when it is whole again. (Not pure: it wraps a driver, for two packages.)
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from secrets import token_hex
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, ResponseError

from .errors import Unavailable
from .tasks import Tasks, delays

log = logging.getLogger("realtime.redis_pubsub")

PATIENCE = 3.0  # seconds: to connect, for an answer, of silence on a pub/sub connection
HEARTBEAT = 1.0  # seconds of silence after which a pub/sub connection is pinged
LONGEST_PAUSE = 0.5  # seconds between two tries to connect it: all of a node's deliveries wait for it
CONNECTIONS = 16  # of one client; further calls wait for one of these

# RESP2: the same replies from Redis and Valkey, and pub/sub messages that are plain lists. No `socket_timeout`: with it
# redis-py sends within `asyncio.wait_for`, which up to Python 3.11 may swallow a cancellation. The time-outs are ours.
SETTINGS: dict[str, Any] = {"protocol": 2, "decode_responses": False, "socket_timeout": None}
# A pooled connection may have died unseen: once more, on a new one. (What we send can be sent twice.)
ONCE_MORE = Retry(NoBackoff(), 1, supported_errors=(Disconnected,))
NEVER = Retry(NoBackoff(), 0)
FAILURES = (RedisError, OSError, TimeoutError)


def client(url: str, retry: Retry = ONCE_MORE) -> Redis:
    """Bytes in, bytes out; to be called within `answering`, and closed by `aclose`."""
    limits = {"max_connections": CONNECTIONS, "timeout": None}
    return Redis.from_pool(BlockingConnectionPool.from_url(url, retry=retry, **limits, **SETTINGS))


@contextmanager
def failing_as(down: type[Unavailable]) -> Iterator[None]:
    """The driver's failures as one of ours."""
    try:
        yield
    except FAILURES as error:
        raise down(f"redis does not answer: {str(error) or type(error).__name__}") from error


@asynccontextmanager
async def answering(down: type[Unavailable]) -> AsyncIterator[None]:
    """For one call: it ends within `PATIENCE`, or fails as one of ours."""
    with failing_as(down):
        async with asyncio.timeout(PATIENCE):
            yield


class PubSub:
    """Subscriptions that outlive their connection.

    `heard` is called with the channel and payload of each message, `broken` when messages may be missing from now on,
    `recovered` when every subscription is confirmed again. `home` is a name that is always subscribed.
    """

    def __init__(
        self,
        url: str,
        home: bytes,
        *,
        heard: Callable[[bytes, bytes], None],
        recovered: Callable[[], None],
        broken: Callable[[], None],
    ) -> None:
        self._pool = ConnectionPool.from_url(
            url, retry=NEVER, **SETTINGS
        )  # only because it knows how to make a connection
        self._home = home
        self._heard, self._recovered, self._broken = heard, recovered, broken
        self._wanted: dict[bytes, asyncio.Future[None]] = {}  # name -> its first confirmation
        self._unconfirmed: deque[asyncio.Future[None]] = deque()  # as sent on this connection, answered in order
        self._connection: AbstractConnection | None = None
        self._name = f"realtime-{token_hex(6)}"  # of our connections
        self._last = b""  # the server's number of our last one
        self._whole = True
        self._pauses = _pauses()
        self._tasks = Tasks()

    def open(self) -> None:
        self._wanted[self._home] = asyncio.get_running_loop().create_future()
        self._tasks.start(self._run(), f"pub/sub {self._home.decode()}")

    async def close(self) -> None:
        await self._tasks.close()
        for name in list(self._wanted):
            self._forget(name, ConnectionAbortedError("closed"))

    async def subscribe(self, name: bytes) -> None:
        """Returns when the server has confirmed it. Else raises TimeoutError within seconds, and forgets it.

        A name with a `*` is a pattern. Whoever subscribes while another one does shares its confirmation.
        """
        confirmed = self._wanted.get(name)
        try:
            async with asyncio.timeout(PATIENCE):
                if confirmed is None:
                    confirmed = self._wanted[name] = asyncio.get_running_loop().create_future()
                    await self._send_subscribe([name])
                await asyncio.shield(confirmed)
        except TimeoutError as error:
            if self._wanted.get(name) is confirmed:
                self._forget(name, error)
                await self._drop()  # it did not confirm: it is not to be trusted
            raise

    async def unsubscribe(self, name: bytes) -> None:
        if name in self._wanted:
            self._forget(name, ConnectionAbortedError("unsubscribed meanwhile"))
            await self._send(["PUNSUBSCRIBE" if b"*" in name else "UNSUBSCRIBE", name])

    def _forget(self, name: bytes, error: Exception) -> None:
        confirmed = self._wanted.pop(name)
        if not confirmed.done():
            confirmed.set_exception(error)
            confirmed.exception()  # perhaps nobody waits for it any more

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except FAILURES as error:
                self._break(str(error) or type(error).__name__)
            except Exception:  # a defect in what hears the messages must not leave this node deaf
                log.exception("a pub/sub message could not be taken")
                self._break("a message could not be taken")
            await asyncio.sleep(next(self._pauses))

    async def _serve(self) -> None:
        """Reads from one connection until it breaks."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(PATIENCE):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._replace_last(connection)
            self._connection, self._unconfirmed = connection, deque()
            await self._send_subscribe([*(name for name in self._wanted if name != self._home), self._home])
            await self._read(connection)
        finally:
            self._connection = None
            await connection.disconnect(nowait=True)

    async def _replace_last(self, connection: AbstractConnection) -> None:
        """The server may not know that our last connection is dead, and later think us there when we are gone.

        By number and by name, as another run of the server gives out its numbers anew.
        """
        with suppress(ResponseError):  # not for us to ask: then its keep-alive ends it, some time
            await _ask(connection, "CLIENT", "SETNAME", self._name)
            mine = f" name={self._name} ".encode()
            if self._last and mine in await _ask(connection, "CLIENT", "LIST", "ID", self._last):
                await _ask(connection, "CLIENT", "KILL", "ID", self._last)
            self._last = b"%d" % await _ask(connection, "CLIENT", "ID")

    async def _read(self, connection: AbstractConnection) -> None:
        silence = 0.0
        while silence < PATIENCE:
            reply = await connection.read_response(timeout=HEARTBEAT)
            if reply is not None:
                silence = 0.0
                self._take(reply)
            else:
                silence += HEARTBEAT
                await self._send(["PING"])
        raise TimeoutError(f"silent for {PATIENCE:g} s")

    def _take(self, reply: list[bytes]) -> None:
        match reply:
            case [b"message", channel, payload] | [b"pmessage", _, channel, payload]:
                self._heard(channel, payload)
            case [b"subscribe" | b"psubscribe", name, _]:
                self._confirm(name)

    def _confirm(self, name: bytes) -> None:
        confirmed = self._unconfirmed.popleft()
        if not confirmed.done():
            confirmed.set_result(None)
        if name == self._home and not self._whole:  # the last one of a new connection
            log.info("the pub/sub connection to redis is whole again")
            self._whole, self._pauses = True, _pauses()
            self._recovered()

    def _break(self, reason: str) -> None:
        if self._whole:
            log.warning("the pub/sub connection to redis broke: %s", reason)
            self._whole = False
            self._broken()

    async def _send_subscribe(self, names: list[bytes]) -> None:
        if self._connection is not None:
            self._unconfirmed.extend(self._wanted[name] for name in names)
        await self._send(*(["PSUBSCRIBE" if b"*" in name else "SUBSCRIBE", name] for name in names))

    async def _send(self, *commands: list[str | bytes]) -> None:
        """Without a connection nothing is sent: the next one subscribes to what is wanted then."""
        connection = self._connection
        if connection is None or not connection.is_connected:  # redis-py would connect it again
            return
        with suppress(*FAILURES):  # the reader finds it closed
            async with asyncio.timeout(PATIENCE):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)

    async def _drop(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)


def _pauses() -> Iterator[float]:
    return delays(0.05, LONGEST_PAUSE)


async def _ask(connection: AbstractConnection, *words: str | bytes) -> Any:
    await connection.send_packed_command(connection.pack_command(*words), check_health=False)
    return await connection.read_response()
