"""The blocking twin: the same verbs, from a thread without a loop; and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from realtime.client import Conflict, Event, RealtimeError, Snapshot, SyncLive, connect_sync
from tests.client.conftest import Node
from tests.wait import until

pytestmark = pytest.mark.asyncio


async def blocking(work: Callable[[], None]) -> None:
    """In a thread: the node is in this one."""
    await asyncio.to_thread(work)


async def test_the_same_verbs(node: Node) -> None:
    def work() -> None:
        with connect_sync(node.address) as live:
            assert live.state == "idle"
            written = live.put("memory/rooms", "attic", 1, wait=True)
            assert live.get("memory/rooms", "attic").etag == written.etag
            live.put("memory/rooms", "attic", {"temp": 2}, if_match=written.etag)
            with pytest.raises(Conflict):
                live.put("memory/rooms", "attic", 3, if_absent=True)
            live.patch("memory/rooms", "attic", {"unit": "C"}, wait=True)
            made = live.post("memory/rooms", 4)
            live.delete("memory/rooms", made.key, wait=True)
            with live.watch("memory/rooms", key="attic") as watch:
                assert next(watch) == Snapshot(
                    "memory/rooms", "attic", {"attic": {"temp": 2, "unit": "C"}}, watch.cursor or ""
                )
                live.delete("memory/rooms", "attic")
                for event in watch:
                    assert isinstance(event, Event)
                    assert event.op == "delete"
                    break
            with pytest.raises(StopIteration):
                next(watch)

    await blocking(work)


async def test_a_replica(node: Node) -> None:
    def work() -> None:
        with connect_sync(node.address) as live:
            rooms = live.replica("memory/rooms")
            assert (len(rooms), next(live.states())) == (0, "live")
            live.put("memory/rooms", "attic", 1)
            rooms.changed()
            assert (dict(rooms), "cellar" in rooms) == ({"attic": 1}, False)
            rooms.close()

    await blocking(work)


async def test_a_loop_that_is_left_is_forgotten(node: Node) -> None:
    left = threading.Event()

    def work() -> None:
        with connect_sync(node.address) as live:
            for _ in live.watch("memory/rooms"):
                break
            live.get("memory/rooms", live.post("memory/rooms", 1).key)
            left.wait(10)

    task = asyncio.create_task(blocking(work))
    await until(lambda: bool(node.service.door._open))
    await until(lambda: node.sessions == 0)
    left.set()
    await task


async def test_nothing_stays_behind(node: Node) -> None:
    before = threading.active_count()

    def work() -> None:
        with connect_sync(node.address) as live:
            next(live.watch("memory/rooms"))
        with pytest.raises(RealtimeError, match="closed"):
            live.get("memory/rooms", "attic")
        with pytest.raises(RuntimeError, match="with"):
            connect_sync(node.address).get("memory/rooms", "attic")

    thread = threading.Thread(target=work)
    thread.start()
    await until(lambda: not thread.is_alive())
    assert threading.active_count() == before
    await until(lambda: not node.service.door._open)


PROGRAM = """
import sys
from realtime.client import connect_sync

with connect_sync(sys.argv[1]) as live:
    try:
        for message in live.watch("memory/rooms"):
            print(message.items, flush=True)
    finally:
        print("left", flush=True)
"""


async def test_other_threads_are_let_go(node: Node) -> None:
    """Of a watch, a replica and a request, that wait while it is closed."""
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        heard.set()
        await reader.read()
        writer.close()

    def follow(live: SyncLive) -> int:
        return len(list(live.watch("memory/rooms")))

    def keep(live: SyncLive) -> None:
        with pytest.raises(RealtimeError, match="closed"):
            live.replica("memory/other").changed()

    def ask(live: SyncLive) -> None:
        with pytest.raises(RealtimeError):
            live.get("memory/rooms", "attic")

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    silent = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    live, other = connect_sync(node.address), connect_sync(silent)
    await asyncio.to_thread(live.__enter__)
    await asyncio.to_thread(other.__enter__)
    following, keeping = asyncio.to_thread(follow, live), asyncio.to_thread(keep, live)
    waiting = [asyncio.ensure_future(each) for each in (following, keeping, asyncio.to_thread(ask, other))]
    await heard.wait()
    await until(lambda: node.sessions == 2 and live.state == "live")
    for each in (live, other):
        await loop.run_in_executor(None, each.__exit__)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting) == [1, None, None]
    server.close()
    await server.wait_closed()


INTERRUPTED = """
import signal
import sys
from realtime.client import connect_sync

def stop(*_):
    raise TimeoutError

signal.signal(signal.SIGALRM, stop)
with connect_sync(sys.argv[1]) as live:
    watch = live.watch("memory/rooms", mode="all")
    next(watch)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        next(watch)
    except TimeoutError:
        live.put("memory/rooms", "attic", 1, wait=True)
        live.put("memory/rooms", "attic", 2)
    print(next(watch).value, next(watch).value)
"""


async def test_a_step_that_is_interrupted_loses_nothing(node: Node) -> None:
    command = [sys.executable, "-c", INTERRUPTED, node.address]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "1 2\n"), done.stderr


async def test_ctrl_c_ends_it(node: Node) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        node.address,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    async with asyncio.timeout(20):
        assert await program.stdout.readline() == b"{}\n"
        program.send_signal(signal.SIGINT)
        said, wrong = await program.communicate()
    assert (said, program.returncode) == (b"left\n", -signal.SIGINT)
    assert wrong.decode().splitlines()[-1] == "KeyboardInterrupt"
    await until(lambda: not node.service.door._open)
