"""`realtime serve` as a process of its own, ended by its id whatever happens."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OURS = ("REALTIME_", "DATABASE_URL", "REDIS_", "MONGODB_", "PORT", "SERVER_PORT", "WEATHER_URI")


def environment(**more: str) -> dict[str, str]:
    """This process' own without what would configure the service, and with `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | more


@contextmanager
def data_directory() -> Iterator[Path]:
    """Where bundled servers may keep data; not one of pytest's, which PostgreSQL could not enter as root's guest."""
    path = Path(tempfile.mkdtemp(prefix="realtime-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Served:
    """A running service: what it said so far, and its address once it has said that."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The first line from here on that has it. Fails with all that was said when it ends or takes too long."""
        while (line := self._lines.get(timeout=seconds)) is not None:
            self.said.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"ended without {pattern!r}:\n{self.text}")

    @property
    def text(self) -> str:
        return "".join(self.said)

    def address(self) -> str:
        return self.wait_for(r"live at (http://\S+?)/?$")[1]

    def end(self, number: int = signal.SIGTERM, seconds: float = 15) -> int:
        """Send the signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def served(
    data: Path, *options: str, command: Sequence[str] = (sys.executable, "-m", "realtime", "serve"), **more: str
) -> Iterator[Served]:
    """`realtime serve` on a free port."""
    settings = {"REALTIME_PORT": "0", "REALTIME_DATA": str(data)} | more
    process = subprocess.Popen(
        [*command, *options], env=environment(**settings), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield Served(process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stderr is not None:
            process.stderr.close()
