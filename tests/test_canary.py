"""Secrets do not get into what the service says: canaries in every place that has one, every logger at its loudest.

Two services by their real command: one on stores that answer, one on stores that do not, or that refuse.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import websockets.sync.client
from tornado.httpclient import HTTPClient, HTTPRequest, HTTPResponse
from websockets.exceptions import WebSocketException

from realtime.embedded import Embedded
from tests.cluster import drop, fresh
from tests.process import Served, data_directory, environment, served

CANARY = re.compile("canary-[a-z]+")
OPEN = pytest.param("", marks=pytest.mark.long)  # of the same paths, fewer have a secret
LOUD = """
import logging
from realtime import cli, logs

configure = logs.configure

def loudly():
    configure(logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("asyncpg.pool").setLevel(logging.DEBUG)

logs.configure = loudly
cli.main()
"""
COMMAND = (sys.executable, "-X", "dev", "-c", LOUD, "serve")


@pytest.fixture
def urls(servers: Embedded) -> Iterator[dict[str, str]]:
    """Addresses with passwords, which the servers do not ask for but get."""
    found = asyncio.run(fresh(servers))
    with redis.Redis.from_url(found["redis"]) as client:
        client.acl_setuser(
            "canary", enabled=True, passwords=["+canary-redis"], keys=["*"], channels=["*"], commands=["+@all"]
        )
    try:
        yield {
            "DATABASE_URL": found["postgres"].replace("//realtime@", "//realtime:canary-postgres@"),
            "REDIS_URL": found["redis"].replace("unix://", "unix://canary@") + "?password=canary-redis",
            "MONGODB_URI": found["mongo"],
        }
    finally:
        asyncio.run(drop(servers, found))
        with redis.Redis.from_url(found["redis"]) as client:
            client.acl_deluser("canary")


def ask(url: str, method: str = "GET", *, body: str | None = None, **headers: str) -> HTTPResponse:
    client = HTTPClient()
    try:
        request = HTTPRequest(url, method, headers, body, allow_nonstandard_methods=True, request_timeout=20)
        return client.fetch(request, raise_error=False)
    finally:
        client.close()


BODIES = ('{"password": "canary-value"}', "canary-garbage", '{"slug": "canary-slug", "title": "T"}')


def use(base: str, methods: Sequence[str] = ("POST", "PUT", "PATCH"), bodies: Sequence[str] = BODIES) -> int:
    """Everything wrong and everything right that has a secret in it. The number of answers that were errors of ours."""
    secrets = {"Authorization": "Bearer canary-bearer", "Cookie": "realtime_sign_in=canary-cookie"}
    basic = {"Authorization": "Basic canary-basic"}
    query = "ticket=canary-ticket&token=canary-token&password=canary-password"
    paths = ["/", "/v1/me", "/v1/stores", "/v1/ws", "/v1/live", "/v1/redis/rooms", "/v1/postgres/entries/1", "/readyz"]
    paths += ["/static/app.mjs", "/static/nothing", "/static/../setup", "/nothing", "/v1/redis/rooms/a"]
    answers = [ask(f"{base}{path}?{query}&wait=0", **headers) for path in paths for headers in (secrets, basic, {})]
    for path in ("/v1/redis/rooms/a", "/v1/postgres/entries", "/v1/mongo/things/a", "/v1/ticket", "/v1/nothing"):
        for body in bodies:
            for method in methods:
                answers.append(ask(f"{base}{path}?{query}", method, body=body, **secrets))
                answers.append(ask(f"{base}{path}?{query}", method, body=body))
    answers.append(ask(f"{base}/v1/stores", Host="canary-host.example"))
    shouted: list[str | bytes] = [
        b"canary-binary",
        '{"type": "auth", "token": "canary-message"}',
        "canary-frame",
        '{"type": "canary-type"}',
    ]
    for headers in (secrets, {}):
        with suppress(WebSocketException):
            address = f"{base.replace('http', 'ws')}/v1/ws?{query}"
            with websockets.sync.client.connect(address, additional_headers=headers) as socket:
                for frame in shouted:
                    socket.send(frame)
                    socket.recv(5)
    return sum(answer.code == 500 for answer in answers)


def everything_said_by(service: Served, data: Path) -> str:
    service.end()
    with suppress(AssertionError):
        service.wait_for("never said")
    return service.text + "".join(file.read_text(errors="replace") for file in data.glob("*.log"))


def leaked(text: str) -> list[str]:
    return [line[:400] for line in text.splitlines() if CANARY.search(line)]


@pytest.mark.parametrize("closed", [OPEN, "1"])
def test_on_stores_that_answer(urls: dict[str, str], closed: str) -> None:
    settings = {**urls, "REALTIME_AUTH__ON": closed or "0", "REALTIME_AUTH__COOKIE_SECRETS": "canary-" + "c" * 40}
    with data_directory() as data, served(data, command=COMMAND, **settings) as service:
        assert use(service.address()) == 0
        text = everything_said_by(service, data)
    assert "/v1/redis/rooms" in text  # it is loud enough
    assert leaked(text) == []


@pytest.mark.parametrize("closed", [OPEN, "1"])
def test_on_stores_that_do_not(servers: Embedded, closed: str) -> None:
    """Nobody listens on port 1; the MongoDB listens, and does not know the password."""
    mongo = urlsplit(servers.urls["mongo"])
    settings = {
        "DATABASE_URL": "postgresql://canary-user:canary-postgres@127.0.0.1:1/realtime",
        "REDIS_URL": "redis://canary-user:canary-redis@127.0.0.1:1/0",
        "MONGODB_URI": f"mongodb://canary-user:canary-mongo@127.0.0.1:{mongo.port}/realtime?authSource=admin",
        "REALTIME_AUTH__ON": closed or "0",
        "REALTIME_WEATHER__URI": "http://127.0.0.1:1/?key=canary-weather",
    }
    with data_directory() as data, served(data, command=COMMAND, **settings) as service:
        base = service.address()
        assert use(base, ["PUT"], BODIES[:1]) == 0
        told = ask(f"{base}/readyz").body.decode()
        text = everything_said_by(service, data)
    assert "/v1/redis/rooms" in text
    assert leaked(text + told) == []
    assert json.loads(told)["ready"] is False


@pytest.mark.parametrize("words", [["track", "nowhere"], ["user", "ls"]])
def test_a_command_that_fails(words: list[str]) -> None:
    url = "postgresql://canary-user:canary-postgres@127.0.0.1:1/realtime"
    command = [sys.executable, "-m", "realtime", *words]
    done = subprocess.run(command, env=environment(DATABASE_URL=url), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert leaked(done.stdout + done.stderr) == []


def test_a_banner_has_no_password() -> None:
    """Of the bundled servers, MongoDB's stand-in has one."""
    with data_directory() as data, served(data) as service:
        service.address()
        service.wait_for("open: ")
        password = (data / "mongo/password").read_text()
        assert password not in everything_said_by(service, data)
        assert (data / "mongo/url").stat().st_mode & 0o777 == 0o600
