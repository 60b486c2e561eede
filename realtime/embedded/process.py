"""A server's process, which ends when we do, whatever ends us.

The kernel tells it of our death (PR_SET_PDEATHSIG). Its log is also its lock: server and children inherit the log's
descriptor with the flock on it, so the lock is free exactly when the last of them is gone, and a new start waits for
that. Popen rather than asyncio's: the servers outlive the loop that started them.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import pwd
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from signal import Signals
from typing import NamedTuple

from ..errors import StartError

log = logging.getLogger("realtime.embedded")

READY = 60  # seconds until a server must answer; a crash recovery may take most of it
STOP = 10  # seconds until a server that was asked to stop is killed
ORPHAN = 20  # seconds until the server of an earlier, killed run must be gone
LOG_SIZE = 1 << 20  # bytes of log beyond which a start begins it anew
QUOTED = 5  # lines of log in an error

_PR_SET_PDEATHSIG = 1
_ENVIRONMENT = ("HOME", "PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ")  # all else may be secret, or steer a server (PG*)
# Loaded before the fork, and a PyDLL, so that the child calls it without touching the interpreter's lock.
_libc = ctypes.PyDLL(None) if sys.platform == "linux" else None


class Account(NamedTuple):
    """An operating-system user for a process other than our own."""

    name: str
    uid: int
    gid: int

    @classmethod
    def unprivileged(cls) -> Account | None:
        """Where we are root, who is there for what must not be root; None: we are no more than a user ourselves."""
        if os.geteuid() != 0:
            return None
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError:
            raise StartError("there is no user 'nobody' to run postgres as: start as another user than root") from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)


class Process:
    """`home` is where it runs, `stop` asks it to end, `death` is what it gets when we die, `account` who it is.

    `environment` is what it is told besides what all are; `led`: it reads lines from us (`tell`) while we live.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        log: Path,
        *,
        stop: Signals,
        death: Signals,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        led: bool = False,
    ) -> None:
        self.name, self.home, self.log = name, home, log
        self._stop, self._death, self._account = stop, death, account
        self._environment, self._led = dict(environment or {}), led
        self._popen: subprocess.Popen[bytes] | None = None
        self._wanted = False  # it is to run
        self._file = _opened(log)
        self._begin = 0  # where in the log this run's part starts

    async def claim(self) -> None:
        """Wait until no server of an earlier run is left. Raises StartError."""
        try:
            async with asyncio.timeout(ORPHAN):
                while not _locked(self._file.fileno()):  # noqa: ASYNC110  a lock of the kernel's, nothing tells us
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StartError(f"the {self.name} of an earlier run has not ended and still writes {self.log}") from None
        if self.log.stat().st_size > LOG_SIZE:
            self._file.truncate(0)

    def spawn(self, argv: Sequence[str | Path]) -> None:
        """Start the server. The kernel ties it to the calling *thread*: call from one that lives as long as we do."""
        self._begin, self._wanted = self.log.stat().st_size, True
        self._popen = subprocess.Popen(  # noqa: S603  our own arguments
            argv,
            stdin=subprocess.PIPE if self._led else subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            cwd=self.home,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | self._environment,
            bufsize=0,
            umask=0o077,
            start_new_session=True,  # a Ctrl-C at the terminal is for us: we stop the servers after their clients
            preexec_fn=_follow(_libc, os.getpid(), self._death) if _libc else None,
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )

    async def run(self, argv: Sequence[str | Path]) -> None:
        """A program to its end. Raises StartError unless it succeeds."""
        self.spawn(argv)
        await self.ready(self._succeeded)

    async def _succeeded(self) -> bool:
        return self._popen is not None and self._popen.poll() == 0

    async def ready(self, probe: Callable[[], Awaitable[bool]]) -> None:
        """Wait until `probe` says so. Raises StartError when the server ends instead, or is not ready in time."""
        try:
            async with asyncio.timeout(READY):
                while not await probe():
                    self.check()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise StartError(f"{self.name} is not ready after {READY} s{self._quote()}") from None

    def check(self) -> None:
        """Raises StartError when the server has ended and nobody asked it to."""
        status = self._popen.poll() if self._popen and self._wanted else None
        if status is not None:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            raise StartError(f"{self.name} {how}{self._quote()}")

    def output(self) -> str:
        """What the log got since `spawn`, its last 64 kB at most."""
        size = self.log.stat().st_size
        begin = max(self._begin, size - (1 << 16))
        return os.pread(self._file.fileno(), size - begin, begin).decode(errors="replace")

    def _quote(self) -> str:
        lines = self.output().splitlines()[-QUOTED:]
        return "\n".join([f"; the end of {self.log}:", *lines]) if lines else f"; {self.log} says nothing"

    @property
    def pid(self) -> int:
        """Of the newest start; 0 before the first."""
        return self._popen.pid if self._popen else 0

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def send(self, signal: Signals) -> None:
        self.check()
        if self._popen:
            self._popen.send_signal(signal)

    def tell(self, line: str) -> None:
        self.check()
        if self._popen and self._popen.stdin:
            self._popen.stdin.write(f"{line}\n".encode())

    async def ended(self) -> None:
        """Wait until it has ended by itself, which is no error then."""
        self._wanted = False
        while self._popen and self._popen.poll() is None:  # noqa: ASYNC110  a wait in a thread could not be cancelled
            await asyncio.sleep(0.02)
        self._hang_up()

    async def stop(self, how: Signals | None = None) -> None:
        """Ask the server to end (by `how`, else in its usual way) and wait; after `STOP` seconds it is killed."""
        self._wanted = False
        if self._popen is None:
            return
        self._popen.send_signal(how or self._stop)
        try:
            await asyncio.to_thread(self._popen.wait, STOP)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %d s of %s", self.name, STOP, (how or self._stop).name)
            self._popen.kill()
            await asyncio.to_thread(self._popen.wait)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._popen and self._popen.stdin:
            self._popen.stdin.close()

    async def kill(self, how: Signals = Signals.SIGKILL) -> None:
        """As `stop`, and wait for its children, too. Raises StartError when they do not end."""
        await self.stop(how)
        self._file.close()  # the lock on it is ours as well as theirs: look through another descriptor
        self._file = _opened(self.log)
        await self.claim()

    async def close(self) -> None:
        await self.stop()
        self._file.close()


def _opened(path: Path) -> FileIO:
    return open(path, "ab+", buffering=0, opener=_private)  # open as long as the server


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _follow(libc: ctypes.PyDLL, parent: int, death: Signals) -> Callable[[], None]:
    """What the child does between fork and exec, after its change of user (which would undo it): nothing but this."""
    prctl, signal = libc.prctl, int(death)

    def follow() -> None:
        prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)
        if os.getppid() != parent:  # we died before the kernel knew
            os._exit(1)

    return follow


def permitted(argv: Sequence[str | Path], account: Account) -> bool:
    """Whether that user can run this, and it succeeds: more than any reading of modes and ACLs can tell."""
    try:
        done = subprocess.run(  # noqa: S603  our own arguments
            argv, capture_output=True, check=False, user=account.uid, group=account.gid, extra_groups=[]
        )
    except (FileNotFoundError, PermissionError):
        return False
    return done.returncode == 0
