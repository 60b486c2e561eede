"""The same without `async`: a thread with an event loop of its own runs the client, and each call waits for it.

Whoever waits can be interrupted, by Ctrl-C too: what was waited for is cancelled then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, ParamSpec, Self, TypeVar

from ..errors import RealtimeError
from ..protocol import Mode
from .live import Live
from .messages import Item, Message, State, Written
from .replicas import LiveReplica
from .tokens import Token
from .watch import Watch

P = ParamSpec("P")
T = TypeVar("T")


def connect_sync(url: str, *, token: Token = None) -> SyncLive:
    """`with connect_sync("https://host:8888/prefix") as live`: as `connect`."""
    return SyncLive(url, token)


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="realtime client", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop.is_closed():
            work.close()
            raise RealtimeError("the connection is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns."""
        future = self.start(work)
        try:
            return future.result()
        except CancelledError:
            raise RealtimeError("the connection is closed") from None
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Of what is the loop's own."""

        async def work() -> T:
            return function(*args, **kwargs)

        return self.run(work())

    def close(self) -> None:
        """With what others wait for."""
        self.start(_end_others()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others)


class SyncLive:
    """What `connect_sync` gives: the verbs of `Live`."""

    def __init__(self, url: str, token: Token = None) -> None:
        self._live = Live(url, token)
        self._running: _Loop | None = None

    def __enter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("a connection is entered once")
        self._running = _Loop()
        self._running.run(self._live.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what other threads wait for, too."""
        try:
            self._loop.run(self._live.__aexit__())
        finally:
            self._loop.close()

    @property
    def _loop(self) -> _Loop:
        if self._running is None:
            raise RuntimeError("not connected: use it within `with`")
        return self._running

    @property
    def state(self) -> State:
        return self._live.state

    def states(self) -> Iterator[State]:
        """As `Live.states`; each step blocks."""
        states = self._live.states()
        while True:
            try:
                yield self._loop.run(_step(states))
            except StopAsyncIteration:
                return

    def watch(
        self,
        channel: str,
        *,
        key: str | None = None,
        cursor: str | None = None,
        mode: Mode = "latest",
        max_rate: float | None = None,
    ) -> SyncWatch:
        """As `Live.watch`."""
        options = {"key": key, "cursor": cursor, "mode": mode, "max_rate": max_rate}
        return SyncWatch(self._loop, self._loop.call(self._live.watch, channel, **options))  # type: ignore[arg-type]

    def replica(self, channel: str, key: str | None = None) -> SyncReplica:
        """As `Live.replica`; it is ready."""
        replica = self._loop.call(self._live.replica, channel, key)
        self._loop.run(replica.ready())
        return SyncReplica(self._loop, replica)

    def get(self, channel: str, key: str) -> Item:
        """As `Live.get`."""
        return self._loop.run(self._live.get(channel, key))

    def put(
        self,
        channel: str,
        key: str,
        value: Any,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        wait: bool = False,
    ) -> Written:
        """As `Live.put`."""
        return self._loop.run(self._live.put(channel, key, value, if_match=if_match, if_absent=if_absent, wait=wait))

    def patch(self, channel: str, key: str, value: Any, *, if_match: str | None = None, wait: bool = False) -> Written:
        """As `Live.patch`."""
        return self._loop.run(self._live.patch(channel, key, value, if_match=if_match, wait=wait))

    def delete(self, channel: str, key: str, *, if_match: str | None = None, wait: bool = False) -> Written:
        """As `Live.delete`."""
        return self._loop.run(self._live.delete(channel, key, if_match=if_match, wait=wait))

    def post(self, channel: str, value: Any, *, wait: bool = False) -> Written:
        """As `Live.post`."""
        return self._loop.run(self._live.post(channel, value, wait=wait))


class SyncWatch(Iterator[Message]):
    """As `Watch`; each step blocks. One that is interrupted is gone on with by the next, so that no message is lost."""

    def __init__(self, loop: _Loop, watch: Watch) -> None:
        self._loop, self._watch = loop, watch
        self._under_way: Future[Message] | None = None

    @property
    def cursor(self) -> str | None:
        return self._watch.cursor

    def __next__(self) -> Message:
        if self._under_way is None:
            self._under_way = self._loop.start(_step(self._watch))
        self._under_way.exception()  # waits
        step, self._under_way = self._under_way, None
        try:
            return step.result()
        except StopAsyncIteration:
            raise StopIteration from None

    def __del__(self) -> None:
        if self._under_way is not None:
            self._under_way.cancel()

    def close(self) -> None:
        self._loop.run(self._watch.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _step(steps: AsyncIterator[T]) -> T:
    return await anext(steps)


class SyncReplica(Mapping[str, Any]):
    """As `LiveReplica`; `changed` blocks."""

    def __init__(self, loop: _Loop, replica: LiveReplica) -> None:
        self._loop, self._replica = loop, replica

    @property
    def cursor(self) -> str | None:
        return self._replica.cursor

    def changed(self) -> None:
        """As `LiveReplica.changed`."""
        self._loop.run(self._replica.changed())

    def close(self) -> None:
        self._loop.run(self._replica.aclose())

    def __getitem__(self, key: str) -> Any:
        return self._loop.call(self._replica.__getitem__, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._loop.call(list, self._replica))

    def __len__(self) -> int:
        return self._loop.call(len, self._replica)
