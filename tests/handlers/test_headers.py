"""What a browser is told with every answer, by which names the service goes, and where its numbers are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.ioloop import IOLoop
from tornado.routing import Rule
from tornado.web import Application

from realtime.app import Service, application
from realtime.auth.gate import Closed, Shown
from realtime.brokers.memory import MemoryBroker
from realtime.config import Auth, Config
from realtime.handlers.base import SECURE
from realtime.rights import ADMIN, NOBODY, Identity
from realtime.stores.memory import MemoryStore
from tests.web import listening

PATHS = ["/", "/healthz", "/readyz", "/metrics", "/v1/stores", "/v1/live?subscribe=memory/a&wait=0", "/v1/ws"]
PATHS += [
    "/v1/me",
    "/v1/ticket",
    "/v1/openapi.json",
    "/v1/memory/a?wait=0",
    "/v1/memory/a/b",
    "/static/app.mjs",
    "/static/favicon.svg",
]
WRONG = ["/nothing", "/static/nothing", "/static/../pyproject.toml", "/v1/oracle/a?wait=0", "/v1/memory/a?cursor=x"]


async def ask(url: str, method: str = "GET", /, **headers: str) -> HTTPResponse:
    request = HTTPRequest(url, method, headers, allow_nonstandard_methods=True, follow_redirects=False)
    return await AsyncHTTPClient().fetch(request, raise_error=False)


def patterns(rules: list[Rule]) -> Iterator[str]:
    for rule in rules:
        if inner := getattr(rule.target, "rules", None):
            yield from patterns(inner)
        elif (pattern := getattr(rule.matcher, "regex", None)) is not None:
            yield pattern.pattern


def test_every_route_is_walked(app: Application) -> None:
    """One that is added has to be added here."""
    routes = {pattern for pattern in patterns(app.wildcard_router.rules) if pattern != ".*$"}
    unseen = {route for route in routes if not any(re.match(route, path.partition("?")[0]) for path in PATHS)}
    assert unseen == set()


@pytest.mark.gen_test
@pytest.mark.parametrize("path", PATHS + WRONG)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "BREW", "OPTIONS"])
async def test_every_answer_has_the_headers(base_url: str, path: str, method: str) -> None:
    answer = await ask(base_url + path, method)
    named = dict(answer.headers.get_all())
    page = path == "/" and method in ("GET", "HEAD")
    assert named.get("Server") is None
    for name, value in SECURE.items():
        if name == "Content-Security-Policy" and path == "/":
            assert named[name].startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in named[name]
        elif name == "Referrer-Policy" and path == "/":
            assert named[name] == "same-origin"  # or its forms would be of nobody's site
        else:
            assert named.get(name) == value, (answer.code, name)
    if not path.startswith("/static/") and not page:
        assert named["Cache-Control"] == "no-store"


@pytest.mark.gen_test
async def test_a_page_of_another_site_is_told_the_same(base_url: str) -> None:
    answer = await ask(f"{base_url}/v1/memory/a/b", "PUT", **{"Sec-Fetch-Site": "cross-site"})
    assert answer.code == 403
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "1"]
)
async def test_a_borrowed_name_is_refused(base_url: str, host: str) -> None:
    """DNS rebinding: to its browser a page of evil.example would be of the same site as this service."""
    for path in ("/", "/v1/stores", "/v1/ws", "/static/app.mjs", "/healthz"):
        answer = await ask(base_url + path, Host=host)
        assert answer.code == 421
        assert json.loads(answer.body)["error"]["code"] == "wrong_host"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8888", "[::1]:8888", "10.0.0.7", "a.localhost"]
)
async def test_its_own_names_are_good(base_url: str, host: str) -> None:
    assert (await ask(f"{base_url}/healthz", Host=host)).code == 200


async def fetched(service: Service, config: Config, path: str, **headers: str) -> int:
    async with listening(application(service.door, config)) as base:
        return (await ask(base + path, **headers)).code


@pytest.mark.gen_test
async def test_names_can_be_given(service: Service) -> None:
    named = Config(hosts=("live.example",))
    assert await fetched(service, named, "/healthz", Host="live.example") == 200
    assert await fetched(service, named, "/healthz", Host="other.example") == 421
    asking = Auth(on=True)
    assert await fetched(service, Config(auth=asking), "/healthz", Host="any.example") == 200
    closed = Config(auth=asking, hosts=("live.example",))
    assert await fetched(service, closed, "/healthz", Host="any.example") == 421


@pytest.mark.gen_test
async def test_numbers_are_on_the_public_port_of_an_open_service_only(service: Service) -> None:
    assert await fetched(service, Config(), "/metrics") == 200
    assert await fetched(service, Config(auth=Auth(on=True)), "/metrics") == 404
    assert await fetched(service, Config(metrics_port=0), "/metrics") == 404


class Asking(Closed):
    """Believes one token."""

    def __init__(self) -> None:
        super().__init__(ADMIN, accounts=None, tickets=None)  # type: ignore[arg-type]

    async def who(self, shown: Shown) -> Identity:
        return Identity("u1", proof="token") if shown.bearer == "rt_right" else NOBODY


@pytest.mark.gen_test
async def test_strangers_hear_whether_it_is_ready_and_nothing_else(service: Service) -> None:
    service.door.gate = Asking()
    ready = await body(service, "/readyz")
    assert ready == {"ready": True}
    known = await body(service, "/readyz", Authorization="Bearer rt_right")
    assert known["stores"]["memory"]["state"] == "live"
    assert (await body(service, "/v1/stores"))["stores"] == {}
    assert await body(service, "/healthz") == {"ok": True}


async def body(service: Service, path: str, **headers: str) -> Any:
    async with listening(application(service.door, Config(auth=Auth(on=True)))) as base:
        return json.loads((await ask(base + path, **headers)).body)


def test_numbers_on_a_port_of_their_own(io_loop: IOLoop) -> None:
    config = Config(port=0, metrics_port=0)
    service = Service(config, MemoryBroker(), [MemoryStore("memory")], "node-1")

    async def run() -> Any:
        await service.open()
        try:
            inner = f"http://127.0.0.1:{service.metrics_port}"
            public = f"http://127.0.0.1:{service.port}"
            urls = (f"{inner}/metrics", f"{public}/metrics", f"{inner}/readyz", f"{inner}/v1/stores")
            answers = [await ask(url) for url in urls]
            answers.append(await ask(urls[0], Host="evil.example"))
        finally:
            await service.close()
        return [answer.code for answer in answers], answers[0].body.decode(), answers[2].body

    codes, text, ready = io_loop.run_sync(run)
    assert codes == [200, 404, 200, 404, 421]
    assert "stores" in json.loads(ready)
    assert "realtime_connections" in text
