"""The data directory: whose it is, in which format, who uses it at present.

    format   the number of this layout       lock    held while a service runs on it; says which
    postgres/ redis/ mongo/                  postgres.log redis.log mongo.log

Nothing outside it is ever changed. For root it lets others pass (not list): PostgreSQL runs as another user there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

from ..errors import StartError
from .process import Account, permitted

FORMAT = 1
_PLAIN = re.compile(r"/[A-Za-z0-9_./+-]{1,87}")  # a socket's path has room for 104 bytes, the file's name included


def default_directory() -> Path:
    """Where data lives unless said otherwise. For root not below its home, which nobody else may enter."""
    if os.geteuid() == 0:
        return Path("/var/lib/tornado-realtime")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "tornado-realtime"


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None
        self._links: list[Path] = []

    def claim(self) -> None:
        """Make it ours, or refuse with a StartError: not ours, of a newer version, in use."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._format.exists() and set(os.listdir(self.path)) - {"lock"}:
            raise StartError(f"{self.path} is neither empty nor a data directory of this service: choose another")
        self._take_lock()
        self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self._check_format()

    @property
    def _format(self) -> Path:
        return self.path / "format"

    def _take_lock(self) -> None:
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            raise StartError(f"{self.path} is in use by another service, process {pid or 'unknown'}") from None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _check_format(self) -> None:
        if not self._format.exists():
            write(self._format, f"{FORMAT}\n")
        text = self._format.read_text(errors="replace").strip()
        if not text.isdecimal():
            raise StartError(f"{self._format} does not hold a number: {text[:40]!r}")
        if int(text) > FORMAT:
            raise StartError(
                f"{self.path} has data of format {text}, written by a newer version; this one knows {FORMAT}:"
                " update tornado-realtime, or choose another directory"
            )

    def home(self, name: str, account: Account | None = None) -> Path:
        """A server's own subdirectory, of `account` (None: ourselves) alone. Raises StartError if out of its reach."""
        home = self.path / name
        home.mkdir(mode=0o700, exist_ok=True)
        if account:
            os.chown(home, account.uid, account.gid)
            self._check_reach(home, account)
        return home

    def _check_reach(self, home: Path, account: Account) -> None:
        for path in () if _passable(home, account) else [*reversed(home.parents), home]:
            if not _passable(path, account):
                raise StartError(
                    f"{path} does not let the user {account.name!r} pass, as whom PostgreSQL runs when we are root:"
                    " choose a directory elsewhere with --data"
                )

    def sockets(self, home: Path, account: Account | None = None) -> Path:
        """Where a server's socket goes: its home, or, where that is too long or needs quoting, a private directory.

        A link beside the home remembers that one, so that the next start can remove what a killed service left.
        """
        link = home.with_name(f"{home.name}.sockets")
        _remove_linked(link)
        if _PLAIN.fullmatch(str(home)):
            return home
        private = Path(tempfile.mkdtemp(prefix="realtime-", dir="/tmp"))  # short, and every account passes
        link.symlink_to(private)
        self._links.append(link)
        if account:
            os.chown(private, account.uid, account.gid)
        return private

    def release(self) -> None:
        for link in self._links:
            _remove_linked(link)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """All of the text or nothing, also after a crash."""
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _passable(path: Path, account: Account) -> bool:
    return permitted(["/bin/sh", "-c", 'cd "$0"', path], account)


def _remove_linked(link: Path) -> None:
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
