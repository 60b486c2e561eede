"""Nodes that ask who somebody is, with accounts and rules, on the real servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import websockets
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from realtime.app import Service
from realtime.auth.accounts import Account, Accounts
from realtime.config import Auth, Jwt
from realtime.embedded import Embedded
from tests.auth.issuer import AUDIENCE, ISSUER, SECRET
from tests.cluster import Detour, address, databases, node, ready
from tests.wait import until

PASSWORD = "correct horse"
OUTSIDE = Jwt(key=SECRET, algorithms=("HS256",), audience=AUDIENCE, issuer=ISSUER)


class Guarded:
    """`people`: accounts by name (their e-mail is NAME@example.org), `tokens` of theirs."""

    def __init__(self, nodes: Sequence[Service], accounts: Accounts, rules: Path, urls: Mapping[str, str]) -> None:
        self.nodes, self.accounts, self.rules, self.urls = nodes, accounts, rules, urls
        self.people: dict[str, Account] = {}
        self.tokens: dict[str, str] = {}

    @property
    def bases(self) -> list[str]:
        return [address(each) for each in self.nodes]

    async def add(self, name: str, *roles: str) -> None:
        self.people[name] = await self.accounts.add(f"{name}@example.org", name, PASSWORD, roles)
        _, self.tokens[name] = await self.accounts.issue(self.people[name].id, "test", ("read", "write"), None)

    async def ask(
        self, name: str | None, path: str, method: str = "GET", body: object = None, node: int = 0, **headers: str
    ) -> HTTPResponse:
        """By a person's token, or by nobody."""
        if name is not None:
            headers["Authorization"] = f"Bearer {self.tokens[name]}"
        data = None if body is None else json.dumps(body).encode()
        request = HTTPRequest(
            self.bases[node] + path,
            method,
            headers,
            data,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=30,
        )
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    @asynccontextmanager
    async def connected(
        self, name: str | None = None, node: int = 0, query: str = "", **headers: str
    ) -> AsyncIterator[Conversation]:
        if name is not None:
            headers["Authorization"] = f"Bearer {self.tokens[name]}"
        url = self.bases[node].replace("http", "ws") + f"/v1/ws{query}"
        async with websockets.connect(url, additional_headers=headers, compression=None) as connection:
            conversation = Conversation(connection)
            await conversation.next("welcome")
            yield conversation


class Conversation:
    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection

    async def say(self, **message: object) -> None:
        await self.connection.send(json.dumps(message))

    async def next(self, *kinds: str) -> dict[str, Any]:
        """The next message, which is of one of these; how current a store is does not count."""
        while True:
            message: dict[str, Any] = json.loads(await self.connection.recv())
            if message["type"] not in ("source", "cursor"):
                assert message["type"] in kinds, message
                return message

    async def subscribe(self, channel: str, key: str | None = None, id_: int = 1, **more: object) -> dict[str, Any]:
        """The answer."""
        selection = {"channel": channel} if key is None else {"channel": channel, "key": key}
        await self.say(type="subscribe", id=id_, **selection, **more)
        return await self.next("subscribed", "error")

    async def closed(self) -> int | None:
        """With which code, whatever is said before."""
        await self.connection.wait_closed()
        return self.connection.close_code


@asynccontextmanager
async def guarded(
    servers: Embedded,
    directory: Path,
    rules: str,
    people: Mapping[str, Sequence[str]],
    *,
    nodes: int = 1,
    detour: Detour | None = None,
    **settings: Any,
) -> AsyncIterator[Guarded]:
    """`people`: roles by name. `detour` may change the addresses that the nodes are given."""
    file = directory / "rules.toml"
    file.write_text(rules)
    auth = Auth(on=True, rules=str(file), jwt=OUTSIDE)
    async with AsyncExitStack() as stack:
        urls = await stack.enter_async_context(databases(servers))
        direct = urls["postgres"]
        if detour is not None:
            await detour(urls)
        services = [await stack.enter_async_context(node(urls, number, auth, **settings)) for number in range(nodes)]
        accounts = Accounts(direct)
        await accounts.open()
        stack.push_async_callback(accounts.close)
        await until(lambda: ready(services))
        await until(lambda: all(each.door.guard is not None and each.door.guard.keys for each in services))
        found = Guarded(services, accounts, file, urls)
        for name, roles in people.items():
            await found.add(name, *roles)
        yield found
