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

HEARD = 0.1  # of the writes ask to be answered when their event is in the log


class Rest:
    exact = True

    def __init__(self, stage: Stage, channel: str, http: AsyncHTTPClient, dice: Random) -> None:
        self._stage, self._channel, self._http, self._dice = stage, channel, http, dice

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._ask("PUT", key, msgspec.json.encode(value))

    async def delete(self, key: str) -> None:
        await self._ask("DELETE", key, None)

    async def _ask(self, method: str, key: str, body: bytes | None) -> None:
        """202 is an answer, too: it is written, and its event will come."""
        if not (addresses := self._stage.addresses()):
            raise Doubt("no node is up")
        query = "?wait=1" if self._dice.random() < HEARD else ""
        url = f"{self._dice.choice(addresses)}/v1/{self._channel}/{quote(key, safe='')}{query}"
        try:
            answer = await self._http.fetch(
                url, method=method, body=body, request_timeout=BOUND, follow_redirects=False, raise_error=False
            )
        except (HTTPClientError, OSError) as error:
            raise Doubt(f"{method} {url}: {error!r}") from error
        said = f"{method} {url}: {answer.code} {answer.body[:200].decode(errors='replace')}"
        if answer.code >= 500:
            raise Doubt(said, fault=answer.code == 500)  # no outage is one
        if answer.code == 404 and method == "DELETE":
            raise NotFound(said)
        if answer.code >= 300:
            raise Refused(said)
