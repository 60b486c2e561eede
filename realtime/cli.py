"""The command line: `realtime serve` (the verb when none is given) and `realtime track TABLE`.

Data goes to standard output, talk to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong
configuration. The server's parts are imported by the verbs that need them, so that `--help` is quick.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from . import __version__
from .config import load
from .errors import ConfigError, RealtimeError, StartError

BAD_CONFIGURATION = 78  # sysexits.h, EX_CONFIG


class DefaultVerb(click.Group):
    """`realtime --port 0` means `realtime serve --port 0`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


_data = click.option("--data", type=click.Path(file_okay=False), help="Where bundled servers keep data.")
_config = click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings.  [realtime.toml]")


@click.group(cls=DefaultVerb, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="realtime")
def cli() -> None:
    """One live key space over Redis, MongoDB, PostgreSQL and feeds: a snapshot, then every change, whoever wrote it."""


@cli.command()
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.  [8888]")
@click.option("--host", help="Address to listen on.  [127.0.0.1]")
@_data
@click.option("--demo", is_flag=True, default=None, help="Sample data that moves, and simulated weather.")
@_config
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
@_config
@_data
def track(table: str, config: Path | None, data: str | None) -> None:
    """Make a PostgreSQL TABLE live: `name` or `schema.name`, with a primary key. Running nodes notice at once."""
    settings = load({"data": data}, os.environ, config)
    from .serve import track as run

    asyncio.run(run(settings, table))
    click.echo(f"postgres/{table} is live", err=True)


def main() -> None:
    try:
        cli(prog_name="realtime")
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(BAD_CONFIGURATION)
    except (StartError, RealtimeError) as error:
        click.echo(f"realtime: {error}", err=True)
        sys.exit(1)
