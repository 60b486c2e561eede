"""The command line: `realtime serve` (the verb when none is given), `track`, `verify`, and those of `commands`.

Data goes to standard output, talk to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong
configuration. The server's parts are imported by the verbs that need them, so that `--help` is quick.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from random import randrange
from typing import Any

import click

from . import __version__, commands
from .commands import config_option, data_option
from .config import load
from .errors import ConfigError, RealtimeError, StartError

BAD_CONFIGURATION = 78  # sysexits.h, EX_CONFIG


class Seeds(click.ParamType[list[int]]):
    """`7`, or `1..5`."""

    name = "seed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        first, _, last = str(value).partition("..")
        try:
            seeds = list(range(int(first), int(last or first) + 1))
        except ValueError:
            seeds = []
        return seeds or self.fail(f"{value!r} is neither a number nor a range like 1..5", param, ctx)


class DefaultVerb(click.Group):
    """`realtime --port 0` means `realtime serve --port 0`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultVerb, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="realtime")
def cli() -> None:
    """One live key space over Redis, MongoDB, PostgreSQL and feeds: a snapshot, then every change, whoever wrote it."""


@cli.command()
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.  [8888]")
@click.option("--host", help="Address to listen on.  [127.0.0.1]")
@data_option
@click.option("--demo", is_flag=True, default=None, help="Sample data that moves, and simulated weather.")
@config_option
def serve(config: Path | None, **flags: Any) -> None:
    """Serve the live key space.

    Uses DATABASE_URL, REDIS_URL and MONGODB_URI; for each one that is not set, starts a server of its own.
    """
    settings = load(flags, os.environ, config)
    from . import logs
    from .serve import serve as run

    logs.configure()
    asyncio.run(run(settings))


@cli.command()
@click.argument("table")
@config_option
@data_option
def track(table: str, config: Path | None, data: str | None) -> None:
    """Make a PostgreSQL TABLE live: `name` or `schema.name`, with a primary key. Running nodes notice at once."""
    settings = load({"data": data}, os.environ, config)
    from .serve import track as run

    asyncio.run(run(settings, table))
    click.echo(f"postgres/{table} is live", err=True)


@cli.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=1.0, help="Of each run.  [1]")
@click.option("--seed", "seeds", type=Seeds(), help="Which schedule of faults: 7, or 1..5 for five runs.  [random]")
@click.option("--nodes", type=click.IntRange(1, 9), default=3, help="Of the cluster.  [3]")
@click.option("--clients", type=click.IntRange(1, 1000), default=24, help="That come, go and resume.  [24]")
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="Only this one; may be repeated.  [all]")
@click.option("--list", "listed", is_flag=True, help="Say which faults there are.")
@click.option("--at", multiple=True, metavar="URL", help="A node that runs already; may be repeated.  [our own]")
@click.option("--json", "as_json", is_flag=True, help="The report as a line of JSON for each run.")
@config_option
def verify(config: Path | None, seeds: list[int] | None, listed: bool, as_json: bool, **given: Any) -> None:
    """Prove what is promised: no gap, no regression, the right value in the end, under faults.

    Starts nodes and servers of its own in a temporary directory, writes to every store, lets clients come, go and
    resume on every transport, strikes with faults on a schedule that the seed decides, and checks what each client
    hears. Nothing of yours is touched.

    With --at it does the same to a cluster that runs already, in collections of its own (verify_…), without the faults
    that need a server or node to break. DATABASE_URL, REDIS_URL and MONGODB_URI say where to write past the service.
    """
    from .verify import command

    if listed:
        click.echo(command.listed())
        return
    settings = load({}, os.environ, config)
    options = command.options(settings, **given)
    seeds = seeds or [randrange(1, 10_000)]  # noqa: S311  a schedule, not a secret
    broken = asyncio.run(command.verify_all(options, seeds, as_json=as_json))
    sys.exit(1 if broken else 0)


for group in (commands.user, commands.token, commands.settings):
    cli.add_command(group)


def main() -> None:
    try:
        cli(prog_name="realtime")
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(BAD_CONFIGURATION)
    except (StartError, RealtimeError) as error:
        hint = getattr(error, "hint", None)
        click.echo(f"realtime: {error}" + (f" ({hint})" if hint else ""), err=True)
        sys.exit(1)
