"""The command line, as processes: start, banner, refusals, signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from realtime import __version__
from realtime.embedded import Embedded
from tests.process import data_directory, environment, served
from tests.stores.pg import psql


def realtime(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "realtime", *arguments]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def data() -> Iterator[Path]:
    with data_directory() as path:
        yield path


def given(servers: Embedded) -> dict[str, str]:
    return {
        "DATABASE_URL": servers.urls["postgres"],
        "REDIS_URL": servers.urls["redis"],
        "MONGODB_URI": servers.urls["mongo"],
    }


def test_help_and_version() -> None:
    assert "realtime serve" not in realtime("--help").stderr
    assert "track" in realtime("--help").stdout
    assert realtime("--version").stdout == f"realtime, version {__version__}\n"
    assert "--demo" in realtime("serve", "-h").stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "words"),
    [
        (["--prot", "1"], {}, 2, "No such option '--prot'"),
        (["--port", "99999"], {}, 2, "99999"),
        (["swerve"], {}, 2, "No such command 'swerve'"),
        ([], {"REALTIME_PROT": "1"}, 78, "did you mean REALTIME_PORT?"),
        ([], {"DATABSE_URL": "x"}, 78, "did you mean DATABASE_URL?"),
        (["--config", "/nowhere.toml"], {}, 78, "/nowhere.toml"),
        (["track"], {}, 2, "Missing argument 'TABLE'"),
    ],
)
def test_refusals(arguments: list[str], variables: dict[str, str], status: int, words: str) -> None:
    answer = realtime(*arguments, **variables)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "variable",
    ["DATABASE_URL=nonsense://u:s3cret@h/x", "REDIS_URL=http://u:s3cret@h", "REDIS_URL=redis://:s3cret@h:99999"],
)
def test_what_is_no_address_is_named_but_not_shown(variable: str) -> None:
    name, _, value = variable.partition("=")
    answer = realtime("--port", "0", **{name: value})
    assert answer.returncode == 78
    assert name in answer.stderr
    assert "s3cret" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_port_in_use_is_said(servers: Embedded) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = realtime("--port", str(port), **given(servers))
    assert answer.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in answer.stderr
    assert "--port" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_data_directory_of_a_newer_version_is_refused(data: Path) -> None:
    (data / "format").write_text("99\n")
    answer = realtime("--port", "0", "--data", str(data))
    assert answer.returncode == 1
    assert "newer" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_service_with_its_own_servers(data: Path) -> None:
    """Starts, says how to reach everything, tracks tables meanwhile, drains within 10 s, keeps what was written."""
    with served(data, "--demo") as service:
        base = service.address()
        for tool in ("psql", "mongosh", "redis-cli"):
            service.wait_for(tool)
        assert _json(f"{base}/healthz") == {"ok": True}
        _put(f"{base}/v1/redis/sensors/kept", 1)
        answer = realtime("track", "nowhere", REALTIME_DATA=str(data))
        assert answer.returncode == 1
        assert "nowhere" in answer.stderr
        assert (
            "ann@example.org has an account" in realtime("user", "add", "ann@example.org", "--data", str(data)).stderr
        )
        begin = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - begin < 10
    answer = realtime("user", "ls", "--data", str(data))  # on a server that runs for this alone
    assert "ann@example.org" in answer.stdout
    assert "starting PostgreSQL" in answer.stderr
    with served(data, "--demo") as service:
        assert _json(f"{service.address()}/v1/redis/sensors/kept") == 1
        assert service.end(signal.SIGINT) == 0


def test_given_servers_are_not_started(servers: Embedded, data: Path) -> None:
    with served(data, **given(servers)) as service:
        base = service.address()
        service.wait_for("yours, from DATABASE_URL")
        assert list(data.iterdir()) == []
        assert _json(f"{base}/readyz")["ready"] is True
        assert service.end() == 0


def test_a_killed_nodes_feeds_are_taken_over(servers: Embedded, data: Path) -> None:
    """Kill -9 of the node that holds the feeds: the other one's clients hear what is written behind the back."""
    with served(data, REALTIME_NODE="one", **given(servers)) as one:
        _put(f"{one.address()}/v1/redis/sensors/taken?wait=1", 0)
        with served(data, REALTIME_NODE="two", **given(servers)) as two:
            base = two.address()
            cursors = {path: _json(f"{base}/v1/{path}?wait=0")["cursor"] for path in BEHIND}
            one.process.kill()
            one.process.wait()
            begin = time.monotonic()
            for path, write in BEHIND.items():
                write(servers.urls)
                events: list[Any] = []
                while not events:
                    answer = _json(f"{base}/v1/{path}?wait=20&cursor={cursors[path]}")
                    events, cursors[path] = answer["events"], answer["cursor"]
                print(f"{path} after {time.monotonic() - begin:.1f} s")
            assert two.end() == 0


def _set_key(urls: Mapping[str, str]) -> None:
    with redis.Redis.from_url(urls["redis"]) as client:
        client.set("sensors:taken", "1")


def _insert_row(urls: Mapping[str, str]) -> None:
    asyncio.run(psql(urls["postgres"], "INSERT INTO entries (slug, title) VALUES ('taken', 'over')"))


def _insert_document(urls: Mapping[str, str]) -> None:
    with pymongo.MongoClient[dict[str, object]](urls["mongo"]) as client:
        client.get_default_database()["things"].insert_one({"taken": "over"})


BEHIND = {"redis/sensors": _set_key, "postgres/entries": _insert_row, "mongo/things": _insert_document}


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def _put(url: str, value: object) -> None:
    request = urllib.request.Request(url, json.dumps(value).encode(), method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
