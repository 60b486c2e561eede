"""A collection as the service's own clients write to it: by REST, each write on any node that is up."""

from __future__ import annotations

from random import Random
from typing import Any
from urllib.parse import quote

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from ..errors import NotFound, Refused
from .outside import BOUND, Doubt
from .stage import Stage

WAITS = 0.1  # of the writes ask to be answered when their event is in the log


class Rest:
    exact = True

    def __init__(
        self, stage: Stage, channel: str, http: AsyncHTTPClient, dice: Random, *, waits: float = WAITS
    ) -> None:
        self._stage, self._channel, self._http, self._dice, self._waits = stage, channel, http, dice, waits

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._ask("PUT", key, msgspec.json.encode(value), self._any(), self._dice.random() < self._waits)

    async def delete(self, key: str) -> None:
        await self._ask("DELETE", key, None, self._any(), self._dice.random() < self._waits)

    async def heard(self, key: str, value: dict[str, Any]) -> bool:
        """Whether each node takes it, and is told of it in time."""
        body = msgspec.json.encode(value)
        return all([await self._ask("PUT", key, body, each, True) != 202 for each in self._stage.addresses()])

    def _any(self) -> str:
        if not (addresses := self._stage.addresses()):
            raise Doubt("no node is up")
        return self._dice.choice(addresses)

    async def _ask(self, method: str, key: str, body: bytes | None, address: str, wait: bool) -> int:
        """The status. 202 is an answer, too: it is written, and its event will come."""
        url = f"{address}/v1/{self._channel}/{quote(key, safe='')}{'?wait=1' if wait else ''}"
        try:
            answer = await self._http.fetch(
                url, method=method, body=body, request_timeout=BOUND, follow_redirects=False, raise_error=False
            )
        except (HTTPClientError, OSError) as error:
            raise Doubt(f"{method} {url}: {error!r}") from error
        said = f"{method} {url}: {answer.code} {answer.body[:200].decode(errors='replace').strip()}"
        if answer.code >= 500:
            raise Doubt(said, fault=answer.code == 500)  # no outage is one
        if answer.code == 404 and method == "DELETE":
            raise NotFound(said)
        if answer.code >= 300:
            raise Refused(said)
        return answer.code
