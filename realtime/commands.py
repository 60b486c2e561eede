"""`realtime user …`, `realtime token …`, `realtime config …`: the words of it; `admin` does the work.

A secret or a list goes to standard output, what is said about it to standard error. A password is asked for, or read
from standard input; never taken from the command line, which other users of the machine can see.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .config import Config, load

if TYPE_CHECKING:
    from .auth.accounts import Accounts

T = TypeVar("T")
Command = Callable[..., Any]

DAY = 86_400  # seconds

config_option = click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings.  [realtime.toml]"
)
data_option = click.option("--data", type=click.Path(file_okay=False), help="Where bundled servers keep data.")
_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input: one line.")


@click.group()
def user() -> None:
    """Accounts: who may sign in, and as what."""


@click.group()
def token() -> None:
    """Tokens of an account, for programs: `Authorization: Bearer …`."""


@click.group("config")
def settings() -> None:
    """The configuration."""


@user.command("add")
@click.argument("email")
@click.option("--name", default="", help="How to call them.")
@click.option("--role", "roles", multiple=True, metavar="R", help="What the rules know them by; may be repeated.")
@_stdin
@config_option
@data_option
def add_user(email: str, name: str, roles: tuple[str, ...], password_stdin: bool, **where: Any) -> None:
    """Make an account for EMAIL.

    Without a password it prints an address that signs in once, within 15 minutes, where one can then be set. The role
    `admin` may all, unless `auth.rules` says otherwise.
    """
    config = _config(**where)
    password = _line() if password_stdin else None

    async def work(accounts: Accounts) -> str | None:
        account = await accounts.add(email, name, password, roles)
        _say(f"{account.email} has an account, {account.id}, {_roles(account.roles)}")
        return await accounts.link(account.id) if password is None else None

    _print_link(config, _do(config, work))


@user.command("link")
@click.argument("email")
@config_option
@data_option
def link(email: str, **where: Any) -> None:
    """Print an address to sign in with. It holds once, for 15 minutes, as when the password is forgotten."""
    config = _config(**where)
    _print_link(config, _do(config, lambda accounts: accounts.link(email)))


@user.command("ls")
@config_option
@data_option
def list_users(**where: Any) -> None:
    """List the accounts."""
    from .admin import account_rows, table

    found = _do(_config(**where), lambda accounts: accounts.all())
    for line in table(("EMAIL", "ID", "STATE", "ROLES", "CREATED", "NAME"), account_rows(found)):
        click.echo(line)


@user.command("role")
@click.argument("email")
@click.argument("roles", nargs=-1)
@config_option
@data_option
def role(email: str, roles: tuple[str, ...], **where: Any) -> None:
    """Give EMAIL these ROLES instead of its own. Without any it has none. Holds at once, also for who is there."""
    account = _do(_config(**where), lambda accounts: accounts.change(email, roles=roles))
    _say(f"{account.email} has {_roles(account.roles)}")


@user.command("password")
@click.argument("email")
@_stdin
@config_option
@data_option
def password(email: str, password_stdin: bool, **where: Any) -> None:
    """Set the password of EMAIL. Ends what is signed in with the old one."""
    config = _config(**where)
    new = _line() if password_stdin else click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    account = _do(config, lambda accounts: accounts.change(email, password=new))
    _say(f"{account.email} has a new password")


@user.command("disable")
@click.argument("email")
@config_option
@data_option
def disable(email: str, **where: Any) -> None:
    """Let EMAIL in no more. Ends what is signed in, and revokes all tokens."""
    account = _do(_config(**where), lambda accounts: accounts.change(email, disabled=True))
    _say(f"{account.email} is disabled")


@user.command("enable")
@click.argument("email")
@config_option
@data_option
def enable(email: str, **where: Any) -> None:
    """Let EMAIL in again."""
    account = _do(_config(**where), lambda accounts: accounts.change(email, disabled=False))
    _say(f"{account.email} is enabled")


@user.command("rm")
@click.argument("email")
@config_option
@data_option
def remove_user(email: str, **where: Any) -> None:
    """Remove the account of EMAIL, with its sign-ins and tokens."""
    _do(_config(**where), lambda accounts: accounts.remove(email))
    _say(f"{email} has no account any more")


@token.command("add")
@click.argument("email")
@click.option("--name", required=True, metavar="N", help="To know it by: which program has it.")
@click.option(
    "--scope", "scopes", multiple=True, default=("read",), metavar="S", show_default=True,
    help="read, write, or either of a channel, as read:postgres/*; may be repeated.",
)  # fmt: skip
@click.option("--days", type=click.FloatRange(0, min_open=True), help="That it holds.  [until it is revoked]")
@config_option
@data_option
def add_token(email: str, name: str, scopes: tuple[str, ...], days: float | None, **where: Any) -> None:
    """Make a token for EMAIL, and print it: this once. It may what EMAIL may, within its scopes."""
    expires = None if days is None else time.time() + days * DAY
    made, secret = _do(_config(**where), lambda accounts: accounts.issue(email, name, scopes, expires))
    _say(f"token {made.id} of {email} for {', '.join(made.scopes)}; it is not shown again")
    click.echo(secret)


@token.command("ls")
@click.argument("email")
@config_option
@data_option
def list_tokens(email: str, **where: Any) -> None:
    """List the tokens of EMAIL."""
    from .admin import table, token_rows

    found = _do(_config(**where), lambda accounts: accounts.tokens(email))
    for line in table(("ID", "TOKEN", "SCOPES", "CREATED", "EXPIRES", "USED", "NAME"), token_rows(found)):
        click.echo(line)


@token.command("rm")
@click.argument("email")
@click.argument("token_id", metavar="ID")
@config_option
@data_option
def remove_token(email: str, token_id: str, **where: Any) -> None:
    """Revoke the token ID of EMAIL; what is connected with it is cut off."""
    _do(_config(**where), lambda accounts: accounts.revoke(email, token_id))
    _say(f"token {token_id} is revoked")


@settings.command("check")
@config_option
def check(config: Path | None) -> None:
    """Say whether a service would start so. What is wrong, with status 78; or `ok`, and what is open to whom."""
    loaded = load({}, os.environ, config)
    from .admin import summary

    lines = list(summary(loaded))
    click.echo("\n".join(("ok", *lines)))


def _config(config: Path | None, data: str | None) -> Config:
    return load({"data": data}, os.environ, config)


def _do(config: Config, work: Callable[[Accounts], Awaitable[T]]) -> T:
    from .admin import accounts_of

    async def run() -> T:
        async with accounts_of(config) as accounts:
            return await work(accounts)

    return asyncio.run(run())


def _line() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _print_link(config: Config, secret: str | None) -> None:
    from .admin import sign_in_address

    if secret is not None:
        _say("sign in with this address, once, within 15 minutes:")
        click.echo(sign_in_address(config, secret))


def _roles(roles: tuple[str, ...]) -> str:
    return f"the roles {', '.join(roles)}" if roles else "no roles"


def _say(text: str) -> None:
    click.echo(text, err=True)
