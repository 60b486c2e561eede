"""The stage: servers and nodes that are broken in every way that a run needs, and are whole again, or gone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import websockets
from redis.asyncio import Redis
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from realtime.brokers.keys import LOG
from realtime.config import Config
from realtime.errors import StartError
from realtime.serve import track
from realtime.verify.stage import NODE, NodeProcess, Stage, given_stage, open_stage
from tests.process import Served, data_directory, environment
from tests.test_embedded import processes_in
from tests.wait import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.expects_logs, pytest.mark.long]

CHANNELS = {store: f"{store}/notes" for store in ("postgres", "mongo", "redis")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened() -> AsyncIterator[Stage]:
    with data_directory() as data:
        async with open_stage(data, 2) as stage:
            await sql(stage, "CREATE TABLE notes (key text PRIMARY KEY, n bigint)")
            await track(Config(database_url=stage.urls["postgres"]), "notes")
            first = "/v1/postgres/notes/first?wait=1"
            async with asyncio.timeout(60):  # what is written before the feed knows the table is in no log
                while not (await ask(stage.nodes[0], first, "PUT", body='{"n": 1}')).get("cursor"):
                    pass
            yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(opened: Stage) -> AsyncIterator[Stage]:
    """Two nodes, up and ready; they are so again after the test."""
    yield opened
    for node in opened.nodes:
        try:
            node.thaw()
            node.check()
        except StartError:
            await node.kill()
    await asyncio.gather(*(node.start() for node in opened.nodes if not node.up))
    await opened.ready()


async def sql(stage: Stage, *statements: str) -> Any:
    """In one transaction; the first value of the last one."""
    connection = await asyncpg.connect(stage.urls["postgres"])
    try:
        async with connection.transaction():
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def ask(
    node: NodeProcess, path: str, method: str = "GET", *, body: str | None = None, seconds: float = 20
) -> Any:
    """The JSON that it answers with; None where it does not."""
    url = f"{node.address}{path}"
    try:
        answer = await AsyncHTTPClient().fetch(
            url, method=method, body=body, raise_error=False, request_timeout=seconds, allow_nonstandard_methods=True
        )
    except (OSError, HTTPClientError):
        return None
    return json.loads(answer.body)


async def put(node: NodeProcess, channel: str, key: str, n: int) -> None:
    written = await ask(node, f"/v1/{channel}/{key}", "PUT", body=json.dumps({"n": n}))
    assert "version" in written, written


class Listener:
    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection

    async def hear(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                message: dict[str, Any] = json.loads(await self._connection.recv())
                if message["type"] == kind:
                    return message


@asynccontextmanager
async def listening(node: NodeProcess, channel: str) -> AsyncIterator[Listener]:
    async with websockets.connect(node.address.replace("http", "ws") + "/v1/ws") as connection:
        await connection.send(json.dumps({"type": "subscribe", "id": 1, "channel": channel}))
        listener = Listener(connection)
        await listener.hear("subscribed")
        yield listener


async def holder_and_other(stage: Stage, store: str) -> tuple[NodeProcess, NodeProcess]:
    async with asyncio.timeout(20):
        while (holder := await stage.holder(store)) is None:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)
    (other,) = (node for node in stage.nodes if node is not holder)
    return holder, other


async def told(node: NodeProcess, command: str) -> str:
    """What it answers in its log, once it has."""
    before = len(node.log.read_text())
    node.tell(command)
    await until(lambda: "failpoint: " in node.log.read_text()[before:])
    found = re.search(r"failpoint: ([^\"\n]*)", node.log.read_text()[before:])
    return found[1] if found else ""


# opening and closing --------------------------------------------------------------------------------------------------


async def test_of_a_closed_stage_nothing_is_left_but_its_logs() -> None:
    with data_directory() as data:
        async with open_stage(data, 2) as stage:
            assert stage.owned == {"nodes", "postgres", "mongo", "redis"}
            assert [node.name for node in stage.nodes] == ["node-1", "node-2"]
            assert len(processes_in(data)) > 5  # two nodes, three servers, children of Postgres
            paths = [link.path for node in stage.nodes for link in node.links.values() if link.path]
            assert all(path.parent.parent.stat().st_mode & 0o777 == 0o700 for path in paths)
            stage.nodes[0].freeze()
            await stage.nodes[1].stop()
        assert not processes_in(data)
        assert not any(path.parent.parent.exists() for path in paths)
        assert all("live at" in node.log.read_text() for node in stage.nodes)


async def test_a_program_that_does_not_start_leaves_nothing() -> None:
    with data_directory() as data:
        with pytest.raises(StartError, match=r"(?s)node-\d ended with status 1.*no module of this name"):
            async with open_stage(data, 2, (*NODE[:1], "-c", "raise SystemExit('no module of this name')")):
                pass
        assert not processes_in(data)


async def test_of_a_given_cluster_nothing_is_ours(stage: Stage) -> None:
    async with given_stage([node.address for node in stage.nodes], {}) as given:
        await given.ready()
        assert given.addresses() == stage.addresses()
        assert (given.owned, given.nodes, await given.holder("redis")) == (frozenset(), (), None)
        assert given.collection != stage.collection
        with pytest.raises(ValueError, match="not ours"):
            await given.kill_server("redis")


# servers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", CHANNELS)
async def test_a_server_that_was_killed_is_gone_and_comes_back_with_its_data(stage: Stage, store: str) -> None:
    node, channel, url = stage.nodes[0], CHANNELS[store], stage.urls[store]
    await put(node, channel, "kept", 1)
    if store == "redis":  # the last second of its log may be lost otherwise
        await put(node, channel, "kept?wait=1", 1)
        await asyncio.sleep(1.1)
    assert processes_in(stage.server_home(store))
    await stage.kill_server(store)
    assert not processes_in(stage.server_home(store))
    await stage.start_server(store)
    assert store == "mongo" or stage.urls[store] == url
    await stage.ready()
    assert (await ask(node, f"/v1/{channel}/kept"))["n"] == 1
    await put(node, channel, "kept", 2)


async def test_a_server_is_killed_when_its_last_process_is_gone(stage: Stage) -> None:
    home = stage.server_home("postgres")
    first = int((home / "data/postmaster.pid").read_text().split()[0])
    child = next(iter(processes_in(home) - {first}))
    os.kill(child, signal.SIGSTOP)
    killing = asyncio.create_task(stage.kill_server("postgres"))
    assert await asyncio.wait([killing], timeout=0.5) == (set(), {killing})
    os.kill(child, signal.SIGCONT)
    await killing
    await stage.start_server("postgres")


async def test_postgres_stops_in_every_way(stage: Stage) -> None:
    for how in (signal.SIGINT, signal.SIGQUIT):
        await stage.kill_server("postgres", how)
        await stage.start_server("postgres", ["-c", "max_slot_wal_keep_size=70MB"])
        assert await sql(stage, "SHOW max_slot_wal_keep_size") == "70MB"
    await stage.kill_server("postgres", signal.SIGINT)
    await stage.start_server("postgres")
    assert await sql(stage, "SHOW max_slot_wal_keep_size") == "2GB"
    await stage.ready()


async def test_settings_hold_until_the_next_start(stage: Stage) -> None:
    await restart(stage, "redis", ["--hz", "77"])
    await restart(stage, "mongo", ["--oplog-max-entries", "777"])
    assert (await hz(stage), "777" in command_line(stage, "mongo")) == (77, True)
    await restart(stage, "redis", [])
    await restart(stage, "mongo", [])
    assert (await hz(stage), "777" in command_line(stage, "mongo")) == (10, False)


async def restart(stage: Stage, store: str, words: Sequence[str]) -> None:
    await stage.kill_server(store)
    await stage.start_server(store, words)


async def hz(stage: Stage) -> int:
    async with Redis.from_url(stage.urls["redis"], decode_responses=True) as redis:
        return int((await redis.config_get("hz"))["hz"] or 0)


def command_line(stage: Stage, store: str) -> str:
    (process,) = processes_in(stage.server_home(store))
    return Path(f"/proc/{process}/cmdline").read_text()


async def test_a_server_that_cannot_start_says_why(stage: Stage) -> None:
    await stage.kill_server("redis")
    with pytest.raises(StartError, match=r"(?s)redis ended with status 1.*nonsense"):
        await stage.start_server("redis", ["--appendonly", "nonsense"])
    assert await stage.holder("redis") is None
    await stage.start_server("redis")
    await stage.ready()


async def test_a_server_that_ends_unasked_is_noticed(stage: Stage) -> None:
    (server,) = processes_in(stage.server_home("redis"))
    os.kill(server, signal.SIGKILL)
    with pytest.raises(StartError, match="redis was ended by signal 9"):
        await stage.ready()
    await restart(stage, "redis", [])


# nodes ----------------------------------------------------------------------------------------------------------------


async def test_a_killed_node_starts_again_elsewhere_and_its_feeds_go_on(stage: Stage) -> None:
    holder, other = await holder_and_other(stage, "postgres")
    pid = holder.pid
    await holder.kill()
    assert stage.addresses() == [other.address]
    assert not holder.up
    await moved(stage, "postgres", other)
    await holder.start()
    assert holder.up
    assert [*stage.addresses()] == [node.address for node in stage.nodes]
    assert holder.pid != pid


async def test_a_stopped_node_drains(stage: Stage) -> None:
    node = stage.nodes[0]
    async with listening(node, "redis/notes") as client:
        await node.stop()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.hear("event")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert not node.up


async def test_a_frozen_node_is_up_and_silent(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    node = stage.nodes[0]
    node.freeze()
    assert await ask(node, "/healthz", seconds=0.3) is None
    assert node.frozen
    assert node.address in stage.addresses()
    node.thaw()
    assert await ask(node, "/healthz") == {"ok": True}
    assert not node.frozen
    node.freeze()
    await node.stop()  # is thawed for that
    assert "did not end" not in caplog.text


async def test_a_node_that_ends_unasked_is_noticed(stage: Stage) -> None:
    node = stage.nodes[0]
    os.kill(node.pid, signal.SIGKILL)
    with pytest.raises(StartError, match=r"(?s)node-1 was ended by signal 9; the end of .*node-1\.log"):
        await stage.ready()
    with pytest.raises(StartError, match="node-1 was ended by signal 9"):
        node.tell("tasks")
    await node.died()


async def test_a_node_without_its_leader_stops(stage: Stage) -> None:
    assert await asyncio.to_thread(status_without_leader, stage.urls) == 0


def status_without_leader(urls: Mapping[str, str]) -> int:
    """What a node says that was started with an input, which then ends."""
    given = {"DATABASE_URL": urls["postgres"], "REDIS_URL": urls["redis"], "MONGODB_URI": urls["mongo"]}
    settings = environment(**given, REALTIME_PORT="0", REALTIME_DRAIN="1")
    with subprocess.Popen(NODE, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings) as process:
        try:
            Served(process).wait_for("live at")
            assert process.stdin is not None
            process.stdin.close()
            return process.wait(15)
        finally:
            process.kill()


async def test_a_node_has_ways_of_its_own_to_the_stores(stage: Stage) -> None:
    for store in CHANNELS:
        link = stage.nodes[0].links[store]
        link.mode = "refuse"
        link.reset()
        near, far = [(await ask(node, "/readyz"))["stores"][store]["state"] for node in stage.nodes]
        assert (near, far) == ("down", "live")
        link.mode = "ok"
        await stage.ready()


# failpoints -----------------------------------------------------------------------------------------------------------


async def moved(stage: Stage, store: str, to: NodeProcess) -> None:
    async with asyncio.timeout(20):
        while await stage.holder(store) is not to:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("store", [*CHANNELS, "weather"])
async def test_a_holder_dies_at_an_append_and_the_other_node_goes_on(stage: Stage, store: str) -> None:
    holder, other = await holder_and_other(stage, store)
    async with listening(other, CHANNELS.get(store, "weather/current")) as client:
        assert await told(holder, f"die before-append {store}") == f"die before-append {store}"
        if store in CHANNELS:
            await put(other, CHANNELS[store], "before", 7)
        async with asyncio.timeout(10):
            await holder.died()
        assert not holder.up
        event = await client.hear("event")
        assert store == "weather" or (event["key"], event["value"]["n"]) == ("before", 7)
    await moved(stage, store, other)


@pytest.mark.parametrize(("where", "appended"), [("before-append", 0), ("in-transaction", 2), ("after-append", 4)])
async def test_so_much_of_a_transaction_is_in_the_log_when_its_holder_dies(
    stage: Stage, where: str, appended: int
) -> None:
    holder, other = await holder_and_other(stage, "postgres")
    keys = [f"{where} {n}" for n in range(4)]
    async with listening(other, CHANNELS["postgres"]) as client:
        await told(holder, f"die {where} postgres")
        other.freeze()
        await sql(stage, *(f"INSERT INTO notes VALUES ('{key}', 1)" for key in keys))
        await holder.died()
        assert await logged(stage, where) == appended
        other.thaw()
        assert [(await client.hear("event"))["key"] for _ in keys] == keys


async def logged(stage: Stage, word: str) -> int:
    """Events of the table with that word."""
    async with Redis.from_url(stage.urls["redis"]) as redis:
        return str(await redis.xrange(LOG + CHANNELS["postgres"])).count(f'"value":{{"key":"{word}')


@pytest.mark.parametrize(
    ("store", "method", "body"), [("postgres", "PATCH", '{"n": 8}'), ("mongo", "DELETE", None), ("redis", "PUT", "8")]
)
async def test_a_node_dies_between_commit_and_answer(stage: Stage, store: str, method: str, body: str | None) -> None:
    holder, other = await holder_and_other(stage, store)
    channel = CHANNELS[store]
    async with listening(holder, channel) as client:
        await put(other, channel, "committed", 7)
        first = await client.hear("event")
        await told(other, f"die after-commit {store}")
        assert await ask(other, f"/v1/{channel}/committed", method, body=body) is None
        await other.died()
        second = await client.hear("event")
        assert (second["key"], second["op"]) == ("committed", "delete" if method == "DELETE" else "put")
        assert second["version"] > first["version"]


async def test_a_stalled_node_answers_nobody_for_so_long(stage: Stage) -> None:
    node = stage.nodes[0]
    await told(node, "stall 1")
    assert await ask(node, "/healthz", seconds=0.3) is None
    assert await ask(node, "/healthz") == {"ok": True}
    await stage.ready()


async def test_a_clock_is_wrong_until_it_is_right_again(stage: Stage) -> None:
    holder, other = await holder_and_other(stage, "weather")
    async with listening(other, "weather/current") as client:
        await told(holder, "clock 3600")
        while await seconds_ahead(client) < 3000:
            pass
        await told(holder, "clock 0")
        while await seconds_ahead(client) > 3000:
            pass


async def seconds_ahead(client: Listener) -> float:
    """Of the next observation."""
    observed = (await client.hear("event"))["value"]["observed_at"]
    return datetime.fromisoformat(observed).timestamp() - time.time()


async def test_what_is_no_failpoint_ends_the_node_loudly(stage: Stage) -> None:
    node = stage.nodes[0]
    node.tell("die laughing")
    await node.died()
    assert "ValueError: no failpoint: 'die laughing'" in node.log.read_text()
