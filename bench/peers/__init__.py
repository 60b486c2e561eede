"""Others that bring one message to many WebSockets, to compare with in the same run.

Each sends in a loop of its own, as fast as it can, which spares it the way from a log that ours goes; nchan is told by
POST. A peer is no dependency: `installed` puts what it needs into a directory of the run.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import NamedTuple

from bench.log import SIZE
from bench.nodes import directory
from bench.receivers import Doors
from realtime.embedded.process import Process
from realtime.errors import StartError

HERE = Path(__file__).parent
NUMBER = 7  # digits
SUFFIX = '"}'
_HEAD = '{"type":"event","channel":"redis/f","key":"k","op":"put","version":"0000001","time":1764000000.5,"value":"'
_CURSOR = '","cursor":"v1.0123456789ab-1.'
PREFIX = _HEAD + "x" * (SIZE - len(_HEAD) - len(_CURSOR) - NUMBER - len(SUFFIX)) + _CURSOR
MODULES = Path("/usr/lib/nginx/modules")


class Contender(NamedTuple):
    """`drive` sends turns of so many messages until it is cancelled."""

    name: str
    pid: int
    doors: Doors
    request: bytes
    drive: Callable[[int], Awaitable[None]]


class Missing(Exception):
    """Why a peer is not in the run, and what would change that."""


def pip(home: Path) -> dict[str, str]:
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(home), "python-socketio"])
    return {"PYTHONPATH": str(home)}


def npm(home: Path) -> dict[str, str]:
    if not shutil.which("npm"):
        raise Missing("apt-get install npm")
    _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), "ws"])
    return {"NODE_PATH": str(home / "node_modules")}


def _run(words: Sequence[str]) -> None:
    try:
        subprocess.run(words, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Missing(str(error)) from None


@asynccontextmanager
async def looping(
    name: str,
    words: Sequence[str | Path],
    doors: Doors,
    request: bytes = b"",
    install: Callable[[Path], dict[str, str]] = lambda _: {},
) -> AsyncIterator[Contender]:
    """A program that is told by lines how many messages a turn has; 0: none. It says its port first."""
    async with directory() as home:
        environment = await asyncio.to_thread(install, home)
        peer = Process(
            name, home, home / "log", stop=Signals.SIGTERM, death=Signals.SIGKILL, environment=environment, led=True
        )

        async def drive(burst: int) -> None:
            peer.tell(str(burst))
            try:
                await asyncio.Event().wait()
            finally:
                peer.tell("0")

        try:
            peer.spawn([*words, PREFIX, SUFFIX])
            await peer.ready(lambda: _said(peer))
            base = f"http://127.0.0.1:{int(peer.output())}"
            yield Contender(name, peer.pid, doors._replace(base=base), request, drive)
        except StartError as error:
            raise Missing(str(error)) from None
        finally:
            await peer.close()


async def _said(peer: Process) -> bool:
    return re.fullmatch(r"\d+\n", peer.output()) is not None


def socketio() -> Doors:
    """Engine.IO 4 and Socket.IO 5: `40` connects, an event is `42["event",…]`."""
    path, around = "/socket.io/?EIO=4&transport=websocket", len('42["event",]')
    return Doors("", path, mark="40{", size=SIZE + around, tail=len(SUFFIX) + 1)


@asynccontextmanager
async def nchan() -> AsyncIterator[Contender]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or not (MODULES / "ngx_nchan_module.so").exists():
        raise Missing("apt-get install nginx-light libnginx-mod-nchan")
    async with directory() as home:
        port = _free_port()
        text = (HERE / "nginx.conf").read_text()
        (home / "nginx.conf").write_text(text.replace("MODULES", str(MODULES)).replace("PORT", str(port)))
        peer = Process("nchan", home, home / "log", stop=Signals.SIGTERM, death=Signals.SIGKILL)
        try:
            peer.spawn([nginx, "-p", home, "-c", home / "nginx.conf", "-e", "stderr"])
            await peer.ready(lambda: _answers(port))
            doors = Doors(f"http://127.0.0.1:{port}", "/sub", mark="", size=SIZE, tail=len(SUFFIX))
            yield Contender("nchan (nginx)", peer.pid, doors, b"", lambda burst: _post(port, burst))
        finally:
            await peer.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


async def _answers(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def _post(port: int, burst: int) -> None:
    """On one connection; a turn's messages at once, the next turn when all are answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /pub HTTP/1.1\r\nHost: bench\r\nContent-Length: {SIZE}\r\n\r\n"
    try:
        number, answer = 0, b""
        while True:
            turn = range(number, number + burst)
            writer.write("".join(f"{head}{PREFIX}{each:0{NUMBER}}{SUFFIX}" for each in turn).encode())
            number += burst
            while answer.count(b"HTTP/1.1 20") < burst:
                answer += await reader.read(1 << 16)
            answer = answer.rpartition(b"HTTP/1.1 20")[2]
    finally:
        writer.close()
