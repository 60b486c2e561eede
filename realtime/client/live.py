"""A client's one object: watches and replicas over WebSockets, reads and writes over HTTP, by one address and token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import quote

import msgspec

from ..errors import RealtimeError
from ..protocol import Mode, check_key, split_channel
from ..tasks import Tasks
from .address import Address
from .answers import Answer, error_of
from .exchange import Http
from .held import Held
from .link import Link
from .messages import Item, State, Written, plain
from .replicas import LiveReplica
from .selections import Selection
from .tokens import Token, Tokens, header
from .watch import Watch

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
WORST: tuple[State, ...] = ("reconnecting", "connecting", "catching up", "live", "idle")


def connect(url: str, *, token: Token = None) -> Live:
    """`async with connect("https://host:8888/prefix") as live`. Raises ValueError for what is no address.

    `token`: text, or something to call for one, sync or async, which is called again when the last is about to expire
    or does not hold; what it raises ends what needed it. Nothing is connected before it is needed.
    """
    return Live(url, token)


class Live:
    """What `connect` gives. All of it is for the event loop in which it was entered."""

    def __init__(self, url: str, token: Token = None) -> None:
        self._address = Address.parse(url)
        self._tokens = Tokens(token)
        self._http: Http | None = None  # while it is entered
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._tasks = Tasks()
        self._closed = False
        self._moved = asyncio.Event()  # `state` is another; replaced each time
        self._before: State = "idle"

    async def __aenter__(self) -> Self:
        if self._closed or self._http is not None:
            raise RuntimeError("a connection is entered once")
        self._http = Http(self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        try:
            for link in list(self._links):
                link.end(None)
            self._links.clear()
            await self._tasks.close()
        finally:
            if self._http is not None:
                await self._http.close()
            self._tell()

    # state ----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """How current what is watched is: `idle` before anything is, `catching up` until all of it was answered."""
        if self._closed:
            return "closed"
        return min((each.state for each in self._links), key=WORST.index, default="idle")

    async def states(self) -> AsyncIterator[State]:
        """The state, and each newer one until `closed`; one that is over within a step of the loop may be missed."""
        seen: State | None = None
        while seen != "closed":
            moved = self._moved
            if self.state == seen:
                await moved.wait()
            else:
                seen = self.state
                yield seen

    def _tell(self) -> None:
        self._prune()
        if self.state != self._before:
            self._before = self.state
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    # watching -------------------------------------------------------------------------------------------------------

    def watch(
        self,
        channel: str,
        *,
        key: str | None = None,
        cursor: str | None = None,
        mode: Mode = "latest",
        max_rate: float | None = None,
    ) -> Watch:
        """Iterate over it: a Snapshot, then each Event, and a Reset where history broke.

        `key`: absent, every key. `cursor`: of an earlier message, to go on from there without a Snapshot. `mode`:
        `latest`, of which one who is slow gets the newest event of each key, or `all`. `max_rate`: times a second.
        Raises ProtocolError for what can be no selection.
        """
        return Watch(self, channel, key, cursor, mode, max_rate)

    def replica(self, channel: str, key: str | None = None) -> LiveReplica:
        """A mapping of what is in the channel, or of one key, that stays current: `items = await live.replica(…)`."""
        return LiveReplica(self, channel, key)

    def _hold(self, selection: Selection) -> Held:
        self._entered()
        link = next((each for each in self._links if each.fits(selection)), None)
        if link is None:
            link = Link(self._address, self._tokens, self._tell)
            self._links[link] = self._tasks.start(link.run(), f"client link {self._address}")
        link.add(selection)
        self._tell()
        return Held(link, selection)

    def _prune(self) -> None:
        """The first link stays for what is watched next; others go with the last that they were needed for."""
        for number, link in enumerate(list(self._links)):
            if link.over or (number > 0 and not len(link)):
                self._links.pop(link).cancel()

    # reading and writing --------------------------------------------------------------------------------------------

    async def get(self, channel: str, key: str) -> Item:
        """Raises NotFound, and what every request may: Unauthorized, Forbidden, TooMany, Unavailable, …"""
        answer = await self._ask("GET", _path(channel, key))
        return Item(key, plain(answer.body), answer.etag, answer.headers.get("realtime-cursor"))

    async def put(
        self,
        channel: str,
        key: str,
        value: Any,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        wait: bool = False,
    ) -> Written:
        """Write the whole value; Refused says why the store does not take it.

        `if_match`: only over the value of that `etag`, `"*"` over any; `if_absent`: only where there is none; else
        Conflict. `wait`: until who reads or watches, anywhere, is told of it; where that takes the service too long,
        `cursor` is None.
        """
        body = msgspec.json.encode(value)
        return await self._write("PUT", _path(channel, key), key, body, JSON, if_match, if_absent, wait)

    async def patch(
        self, channel: str, key: str, value: Any, *, if_match: str | None = None, wait: bool = False
    ) -> Written:
        """Merge (RFC 7396): a member that is None is removed."""
        body = msgspec.json.encode(value)
        return await self._write("PATCH", _path(channel, key), key, body, MERGE_PATCH, if_match, False, wait)

    async def delete(self, channel: str, key: str, *, if_match: str | None = None, wait: bool = False) -> Written:
        """Raises NotFound where there is none."""
        return await self._write("DELETE", _path(channel, key), key, None, JSON, if_match, False, wait)

    async def post(self, channel: str, value: Any, *, wait: bool = False) -> Written:
        """A new item, under a key that the store makes."""
        return await self._write("POST", _path(channel), "", msgspec.json.encode(value), JSON, None, False, wait)

    async def _write(
        self,
        method: str,
        path: str,
        key: str,
        body: bytes | None,
        kind: str,
        if_match: str | None,
        if_absent: bool,
        wait: bool,
    ) -> Written:
        headers = {"Content-Type": kind}
        if if_match is not None:
            headers["If-Match"] = "*" if if_match == "*" else f'"{if_match}"'
        if if_absent:
            headers["If-None-Match"] = "*"
        answer = await self._ask(method, path + ("?wait=1" if wait else ""), headers, body)
        receipt = plain(answer.body)
        return Written(receipt.get("key", key), receipt["version"], receipt.get("cursor"), answer.etag)

    async def _ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        http = self._entered()
        token = await self._tokens.get()
        answer = await http.ask(method, path, {**(headers or {}), **header(token)}, body)
        if answer.status == 401:  # so it was not done
            newer = await self._tokens.renew(token)
            if newer != token:
                answer = await http.ask(method, path, {**(headers or {}), **header(newer)}, body)
        if not 200 <= answer.status < 300:
            raise error_of(answer)
        return answer

    def _entered(self) -> Http:
        if self._closed:
            raise RealtimeError("the connection is closed")
        if self._http is None:
            raise RuntimeError("not connected: use it within `async with`")
        return self._http


def _path(channel: str, key: str | None = None) -> str:
    """Raises ProtocolError."""
    split_channel(channel)
    check_key(key)
    return f"/v1/{channel}" if key is None else f"/v1/{channel}/{quote(key, safe='')}"
