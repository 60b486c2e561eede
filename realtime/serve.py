"""`realtime serve` as a process: the bundled servers, one node, a banner, and an orderly end.

SIGTERM and SIGINT drain: clients are told to come back, the port is closed, the servers are stopped. A second signal
ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import click

from . import embedded
from .app import Service, check, listen
from .config import VARIABLES, Config
from .demo import Demo
from .embedded import Embedded
from .errors import StartError
from .stores.postgres import PostgresStore

log = logging.getLogger("realtime.serve")

OPEN = "open: whoever reaches this port may read and write everything"
CLOSED = "closed: everybody is asked who they are, and the rules say what they may"
TITLES = {"postgres": "PostgreSQL", "mongo": "MongoDB", "redis": "Redis"}


async def serve(config: Config) -> None:
    """Until a signal comes. Raises StartError."""
    urls = config.urls
    raise_files()
    missing = [name for name in TITLES if name not in urls]
    check(urls)
    async with AsyncExitStack() as stack:
        sockets = listen(config)
        for each in sockets:
            stack.callback(each.close)
        own = await stack.enter_async_context(_servers(config, missing)) if missing else None
        service = Service.of(config, urls | (own.urls if own else {}), sockets)
        stack.push_async_callback(service.close)
        await service.open()
        _settle()
        _banner(service, own)
        await _until_stopped(service, own)


def raise_files() -> None:
    """Have as many files open as the system lets us: each connection is one."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says "unlimited", and means less
        setrlimit(RLIMIT_NOFILE, (hard, hard))


def _settle() -> None:
    """Let the garbage collector look less often, and not at what was there before the first client: with 10,000 of them
    a look at everything holds up everybody for 0.3 s. Who leaves is no circle, and needs no collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def track(config: Config, table: str) -> None:
    """Name a table of Postgres as live, on the server that the configuration means."""
    async with postgres_of(config) as url:
        store = PostgresStore(url, config.tables)
        await store.open()
        try:
            await store.track(table)
        finally:
            await store.close()


@asynccontextmanager
async def postgres_of(config: Config) -> AsyncIterator[str]:
    """The one that is configured, or the one that a running service brought along, or else our own for a moment."""
    running = _running(_data(config))
    if config.database_url is not None:
        yield config.database_url
    elif "postgres" in running:
        yield running["postgres"]
    else:
        async with _servers(config, ["postgres"]) as own:
            yield own.urls["postgres"]


def _running(data: Path) -> dict[str, str]:
    """The addresses of the servers that a running service brought along."""
    try:
        urls: dict[str, str] = json.loads((data / "urls").read_text())
        os.kill(int(urls["process"]), 0)
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return urls


@asynccontextmanager
async def _servers(config: Config, names: list[str]) -> AsyncIterator[Embedded]:
    """Bundled servers for the stores that have no URL; their addresses are in DIR/urls while they run."""
    data = _data(config)
    _say(f"starting {', '.join(TITLES[name] for name in names)} on {data} …")
    own = await embedded.start(data, names, _say)
    known = data / "urls"
    try:
        known.touch(mode=0o600)
        known.write_text(json.dumps({**own.urls, "process": str(os.getpid())}))
        yield own
    finally:
        known.unlink(missing_ok=True)
        await own.close()


async def _until_stopped(service: Service, own: Embedded | None) -> None:
    stop = signalled()
    ends = [asyncio.create_task(stop.wait(), name="signal")]
    if own is not None:
        ends.append(asyncio.create_task(own.watch(), name="bundled servers"))
    # Sample data only for servers that are ours: nobody else's data is written to unasked.
    demo = Demo([service.node.stores[name] for name in own.urls] if own and service.config.demo else [])
    demo.open()
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a server of ours that died is a StartError
        _say("stopping: clients are told to come back (once more to stop at once)")
        await service.drain()
    finally:
        for task in ends:
            task.cancel()
        await demo.close()


def signalled() -> asyncio.Event:
    """Set by SIGTERM and SIGINT; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, take, number)
    return stop


def address_of(service: Service) -> str:
    return address(service.config.host, service.port)


def address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _banner(service: Service, own: Embedded | None) -> None:
    lines = ["", f"  realtime is live at {address_of(service)}/", ""]
    for name, title in TITLES.items():
        reach = own.reach[name] if own and name in own.reach else f"yours, from {VARIABLES[name]}"
        lines.append(f"  {title:<11} {reach}")
    if service.metrics_port:
        lines.append(f"  {'numbers':<11} http://127.0.0.1:{service.metrics_port}/metrics")
    most, wanted = service.door.bounds.most, service.config.limits.connections
    if most < wanted:
        lines.append(f"  {'connections':<11} {most}, not {wanted}: more need more files (ulimit -n)")
    lines += ["", f"  {CLOSED if service.config.auth.on else OPEN}", ""]
    _say("\n".join(lines))


def _data(config: Config) -> Path:
    return Path(config.data).expanduser().absolute() if config.data else embedded.default_directory()


def _say(text: str) -> None:
    click.echo(text, err=True)


if sys.platform == "win32":
    raise StartError("the server runs on Linux and macOS")
