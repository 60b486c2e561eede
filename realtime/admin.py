"""What the command line does to accounts and tokens, on the PostgreSQL that the configuration means, whether or not a
service runs on it; and what it says of a configuration. Running nodes hear of each change at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from .app import check
from .auth.accounts import Account, Accounts, Token
from .auth.rules_file import read_rules
from .config import VARIABLES, Config
from .refusals import refuse
from .rights import ANONYMOUS, EVERYBODY, Rules
from .serve import CLOSED, OPEN, TITLES, address, postgres_of

ROLES = {EVERYBODY: "whoever is signed in", ANONYMOUS: "whoever is not"}


@asynccontextmanager
async def accounts_of(config: Config) -> AsyncIterator[Accounts]:
    check(config.urls)
    async with postgres_of(config) as url:
        accounts = Accounts(url)
        await accounts.open()
        try:
            yield accounts
        finally:
            await accounts.close()


def sign_in_address(config: Config, link: str) -> str:
    return f"{address(config.host, config.port)}/sign-in?link={link}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines, in columns; an empty field is a `-`, so that each line has as many."""
    lines = [heads, *([field or "-" for field in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        yield "  ".join(field.ljust(width) for field, width in zip(line, widths, strict=True)).rstrip()


def account_rows(accounts: Iterable[Account]) -> Iterator[Sequence[str]]:
    for each in accounts:
        state = "disabled" if each.disabled else "enabled"
        yield each.email, each.id, state, ",".join(each.roles), _time(each.created), each.name


def token_rows(tokens: Iterable[Token]) -> Iterator[Sequence[str]]:
    for each in tokens:
        times = [_time(time) for time in (each.created, each.expires, each.used)]
        yield each.id, f"{each.start}…", ",".join(each.scopes), *times, each.name


def summary(config: Config) -> Iterator[str]:
    """What the configuration comes to. Raises ConfigError, as the start would."""
    check(config.urls)
    refuse(config)
    yield f"listens on {address(config.host, config.port)}/"
    for name, title in TITLES.items():
        yield f"{title}: {f'yours, from {VARIABLES[name]}' if name in config.urls else 'a bundled server'}"
    yield CLOSED if config.auth.on else OPEN
    if config.auth.on:
        yield from _rights(read_rules(config.auth.rules))


def _rights(rules: Rules) -> Iterator[str]:
    roles = {role for rule in rules.rule for role in rule.roles}
    for role in sorted(roles):
        for verb in ("read", "write"):
            given = [rule for rule in rules.rule if role in rule.roles and getattr(rule, verb)]
            if channels := sorted({channel for rule in given for channel in rule.channels}):
                yield f"{ROLES.get(role, f'role {role}')} may {verb} in {', '.join(channels)}"
    if ANONYMOUS not in roles:
        yield f"{ROLES[ANONYMOUS]} may nothing"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")
