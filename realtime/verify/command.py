"""`realtime verify`: a cluster of its own in a temporary directory, or one that runs already; one run for each seed."""

from __future__ import annotations

import asyncio
import difflib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from ..config import Config
from ..errors import ConfigError, StartError
from ..serve import signalled
from .faults import FAULTS
from .report import Report, summary
from .run import Plan, run
from .stage import NODE, Stage, given_stage, open_stage

REACH = 5.0  # seconds for nodes that run already to be ready


class Options(Struct, frozen=True):
    """`at`: addresses of nodes that run already, with the `urls` of their stores as far as known; none: our own."""

    seconds: float
    nodes: int = 3
    clients: int = 24
    faults: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    urls: Mapping[str, str] = {}
    program: Sequence[str] = NODE  # what a node of our own runs


def options(
    config: Config, *, minutes: float, nodes: int, clients: int, faults: tuple[str, ...], at: tuple[str, ...]
) -> Options:
    """As given on the command line. Raises ConfigError for a fault that there is not."""
    for name in faults:
        if name not in FAULTS:
            meant = difflib.get_close_matches(name, FAULTS, n=1)
            raise ConfigError(f"no fault {name!r}{f'; did you mean {meant[0]}?' if meant else ''} (--list has all)")
    for address in at:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"--at {address!r} is not an address like http://127.0.0.1:8888")
    return Options(minutes * 60, nodes, clients, faults, tuple(each.rstrip("/") for each in at), config.urls)


def listed() -> str:
    return "\n".join(f"{fault.name:<24}{fault.text}" for fault in FAULTS.values())


async def verify_all(options: Options, seeds: Sequence[int], *, as_json: bool) -> bool:
    """Whether any promise was broken."""
    broken, stop = False, signalled()
    for seed in seeds:
        report = await verify(options, seed, stop)
        click.echo(msgspec.json.encode(report).decode() if as_json else f"\n{summary(report)}")
        broken = broken or bool(report.violations)
        if stop.is_set():
            break
    return broken


async def verify(options: Options, seed: int, stop: asyncio.Event) -> Report:
    """One run, until it is over or to `stop`. The logs of servers and nodes are kept where a promise was broken, or
    where they do not start. Raises StartError."""
    plan = Plan(seed, options.seconds, options.clients, options.faults)
    if options.at:
        return await run(_reached(options), plan, _say, stop)
    data = Path(tempfile.mkdtemp(prefix="realtime-verify-"))
    kept = False
    try:
        _say(f"seed {seed}: starting PostgreSQL, Redis, MongoDB and {options.nodes} nodes …")
        report = await run(open_stage(data, options.nodes, options.program), plan, _say, stop)
        kept = bool(report.violations)
    except StartError:
        kept = not stop.is_set()
        raise
    finally:
        if kept:
            _say(f"the logs of nodes and servers are in {data}")
        else:
            await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)
    return report


@asynccontextmanager
async def _reached(options: Options) -> AsyncIterator[Stage]:
    async with given_stage(options.at, options.urls) as stage:
        await stage.ready(REACH)
        yield stage


def _say(text: str) -> None:
    click.echo(text, err=True)
