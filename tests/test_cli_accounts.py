"""`realtime user`, `token` and `config`, as processes on a real PostgreSQL, beside a node's `Accounts`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner

from realtime.auth.accounts import Accounts
from realtime.cli import cli
from realtime.embedded import Embedded
from realtime.errors import Unauthorized
from tests.cluster import drop, fresh
from tests.process import environment

T = TypeVar("T")

EMAIL, PASSWORD = "ann@example.org", "correct horse"
RULES = """
[[rule]]
roles = ["reader", "*"]
channels = ["postgres/entries"]
read = true

[[rule]]
roles = ["anonymous"]
channels = ["weather/*"]
read = true

[[rule]]
roles = ["reader"]
channels = ["redis/notes", "redis/rooms"]
keys = ["{user}:*"]
read = true
write = true
"""


def realtime(url: str, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    variables = environment(**({"DATABASE_URL": url} if url else {}), **more)
    command = [sys.executable, "-m", "realtime", *arguments]
    done = subprocess.run(command, env=variables, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


def done(url: str, *arguments: str, stdin: str = "") -> str:
    """What it prints."""
    answer = realtime(url, *arguments, stdin=stdin)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@pytest.fixture
def url(servers: Embedded) -> Iterator[str]:
    urls = asyncio.run(fresh(servers))
    yield urls["postgres"]
    asyncio.run(drop(servers, urls))


def asked(url: str, work: Callable[[Accounts], Awaitable[T]]) -> T:
    """Of accounts, as a node has them."""

    async def run() -> T:
        accounts = Accounts(url)
        await accounts.open()
        try:
            return await work(accounts)
        finally:
            await accounts.close()

    return asyncio.run(run())


def test_an_account_from_its_beginning_to_its_end(url: str) -> None:
    added = realtime(url, "user", "add", "Ann@Example.org", "--name", "Ann", "--role", "reader", "--role", "admin")
    begin, _, link = added.stdout.strip().partition("/sign-in?link=")
    assert begin == "http://127.0.0.1:8888"
    assert link not in added.stderr
    _, identity = asked(url, lambda accounts: accounts.redeem(link))
    assert (identity.name, identity.roles) == ("Ann", ("reader", "admin"))

    assert done(url, "user", "password", EMAIL, "--password-stdin", stdin=f"{PASSWORD}\n") == ""
    asked(url, lambda accounts: accounts.sign_in(EMAIL, PASSWORD, ""))
    done(url, "user", "role", EMAIL, "writer")
    heads, line = done(url, "user", "ls").splitlines()
    assert heads.split() == ["EMAIL", "ID", "STATE", "ROLES", "CREATED", "NAME"]
    assert [*line.split()[:4], line.split()[5]] == [EMAIL, identity.user, "enabled", "writer", "Ann"]
    done(url, "user", "role", EMAIL)
    assert asked(url, lambda accounts: accounts.get(EMAIL)).roles == ()

    done(url, "user", "disable", EMAIL)
    with pytest.raises(Unauthorized):
        asked(url, lambda accounts: accounts.sign_in(EMAIL, PASSWORD, ""))
    assert "disabled" in done(url, "user", "ls")
    done(url, "user", "enable", EMAIL)
    again = done(url, "user", "link", EMAIL).partition("/sign-in?link=")[2]
    asked(url, lambda accounts: accounts.redeem(again))
    done(url, "user", "rm", EMAIL)
    assert len(done(url, "user", "ls").splitlines()) == 1


def test_an_account_with_a_password_needs_no_link(url: str) -> None:
    added = realtime(url, "user", "add", EMAIL, "--password-stdin", stdin=PASSWORD)
    assert (added.returncode, added.stdout) == (0, "")
    assert PASSWORD not in added.stderr
    asked(url, lambda accounts: accounts.sign_in(EMAIL, PASSWORD, ""))


def test_the_link_leads_to_where_the_service_is_configured_to_be(url: str) -> None:
    added = realtime(url, "user", "add", EMAIL, REALTIME_HOST="::1", REALTIME_PORT="9999")
    assert added.stdout.startswith("http://[::1]:9999/sign-in?link=")


def test_a_password_is_asked_for_twice_and_not_shown(url: str) -> None:
    done(url, "user", "add", EMAIL)
    answer = CliRunner().invoke(
        cli, ["user", "password", EMAIL], input=f"{PASSWORD}\n{PASSWORD}\n", env={"DATABASE_URL": url}
    )
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == ""
    assert PASSWORD not in answer.output
    asked(url, lambda accounts: accounts.sign_in(EMAIL, PASSWORD, ""))


def test_a_token_from_its_beginning_to_its_end(url: str) -> None:
    done(url, "user", "add", EMAIL, "--password-stdin", stdin=PASSWORD)
    added = realtime(url, "token", "add", EMAIL, "--name", "nightly run", "--scope", "read:postgres/*", "--days", "7")
    secret = added.stdout.strip()
    assert secret not in added.stderr
    identity = asked(url, lambda accounts: accounts.bearer(secret))
    assert identity.scopes == ("read:postgres/*",)
    assert identity.expires == pytest.approx(time.time() + 7 * 86_400, abs=60)
    assert identity.id in added.stderr
    heads, line = done(url, "token", "ls", EMAIL).splitlines()
    assert heads.split() == ["ID", "TOKEN", "SCOPES", "CREATED", "EXPIRES", "USED", "NAME"]
    assert line.split()[:3] == [identity.id, f"{secret[:7]}…", "read:postgres/*"]
    assert line.endswith("nightly run")
    assert line.split()[5] == "-"
    assert secret not in line
    done(url, "token", "rm", EMAIL, identity.id)
    with pytest.raises(Unauthorized):
        asked(url, lambda accounts: accounts.bearer(secret))


def test_a_token_reads_unless_more_is_said(url: str) -> None:
    done(url, "user", "add", EMAIL)
    secret = done(url, "token", "add", EMAIL, "--name", "x")
    identity = asked(url, lambda accounts: accounts.bearer(secret))
    assert (identity.scopes, identity.expires) == (("read",), None)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["user", "add", "nobody"], 1, "not an e-mail address: 'nobody'"),
        (["user", "add", EMAIL], 1, f"{EMAIL} has an account already"),
        (["user", "add", "b@example.org", "--role", "Admin"], 1, "not a role: 'Admin' (a-z first"),
        (["user", "add", "b@example.org", "--password-stdin"], 1, "8 to 256 characters (got 0)"),
        (["user", "password", EMAIL, "--password-stdin"], 1, "8 to 256 characters (got 0)"),
        (["user", "role", "b@example.org", "x"], 1, "no account 'b@example.org'"),
        (["user", "rm", "b@example.org"], 1, "no account 'b@example.org'"),
        (["token", "add", EMAIL], 2, "Missing option '--name'"),
        (["token", "add", EMAIL, "--name", "x", "--scope", "all"], 1, "not a scope: 'all'"),
        (["token", "add", EMAIL, "--name", "x", "--days", "-1"], 2, "-1"),
        (["token", "rm", EMAIL, "t1"], 1, "no token 't1'"),
        (["user"], 2, "Accounts"),
    ],
)
def test_refusals(url: str, arguments: list[str], status: int, words: str) -> None:
    asked(url, lambda accounts: accounts.add(EMAIL, "", None, []))
    answer = realtime(url, *arguments)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert words in answer.stderr


def test_no_postgres(url: str) -> None:
    answer = realtime("postgresql://realtime@127.0.0.1:1/x", "user", "ls")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "realtime: the store of accounts does not answer: ConnectionRefusedError\n"
    answer = realtime("nonsense://u:s3cret@h/x", "user", "ls")
    assert answer.returncode == 78
    assert "DATABASE_URL" in answer.stderr
    assert "s3cret" not in answer.stderr


def test_a_configuration_that_is_right_is_summed_up(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    rules = {"REALTIME_AUTH__ON": "1", "REALTIME_AUTH__RULES": str(tmp_path / "rules.toml")}
    answer = realtime("postgresql://u:s3cret@h/x", "config", "check", **rules)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines() == [
        "ok",
        "listens on http://127.0.0.1:8888/",
        "PostgreSQL: yours, from DATABASE_URL",
        "MongoDB: a bundled server",
        "Redis: a bundled server",
        "closed: everybody is asked who they are, and the rules say what they may",
        "whoever is signed in may read in postgres/entries",
        "whoever is not may read in weather/*",
        "role reader may read in postgres/entries, redis/notes, redis/rooms",
        "role reader may write in redis/notes, redis/rooms",
    ]
    assert "open: whoever reaches" in realtime("", "config", "check").stdout
    closed = realtime("", "config", "check", REALTIME_AUTH__ON="1").stdout.splitlines()
    assert closed[-3:] == ["role admin may read in *", "role admin may write in *", "whoever is not may nothing"]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("[[rule]]\nroles = ['x']\nchannels = ['postgres/entries']\n", "a rule gives read = true"),
        ("[[rule]\n", "rules.toml"),
        ("[[rule]]\nrolls = ['x']\n", "rolls"),
        (None, "No such file"),
    ],
)
def test_rules_that_are_wrong_are_said(tmp_path: Path, rules: str | None, words: str) -> None:
    file = tmp_path / "rules.toml"
    if rules is not None:
        file.write_text(rules)
    answer = realtime("", "config", "check", REALTIME_AUTH__ON="1", REALTIME_AUTH__RULES=str(file))
    assert (answer.returncode, answer.stdout) == (78, "")
    assert words in answer.stderr


JWT = {"REALTIME_AUTH__JWT__ALGORITHMS": "RS256", "REALTIME_AUTH__JWT__AUDIENCE": "us"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"REALTIME_HOST": "0.0.0.0"}, "REALTIME_AUTH__ON=1"),
        ({"REALTIME_AUTH__ON": "1", "REALTIME_AUTH__COOKIE_SECRETS": "short"}, "auth.cookie_secrets"),
        ({"REALTIME_AUTH__ON": "1", **JWT}, "auth.jwt"),
    ],
)
def test_a_configuration_that_does_not_start_is_not_ok(variables: dict[str, str], words: str) -> None:
    answer = realtime("", "config", "check", **variables)
    assert (answer.returncode, answer.stdout) == (78, "")
    assert words in answer.stderr


def test_an_issuer_is_not_asked_by_a_look_at_the_configuration() -> None:
    url = "https://issuer.invalid/keys"
    issuer = {"REALTIME_AUTH__JWT__JWKS": url, "REALTIME_AUTH__JWT__ISSUER": "https://issuer.invalid/"}
    answer = realtime("", "config", "check", REALTIME_AUTH__ON="1", **JWT, **issuer)
    assert (answer.returncode, answer.stderr) == (0, "")
