"""A node of the stage: a real process, to be killed, frozen, stopped, started again, and told where to fail.

It is configured by its environment alone and has its own way to each store. It runs our code, whatever made that
importable here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

from ..config import VARIABLES
from ..embedded.process import Process
from .links import Links, through

_LIVE = re.compile(r"live at (http://[\w.:]+)")
_SETTINGS = {
    "REALTIME_PORT": "0",
    "REALTIME_DEMO": "1",  # weather that moves, and asks nobody
    "REALTIME_DRAIN": "1",
    "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
    "PYTHONUNBUFFERED": "1",
}


class NodeProcess:
    """`address` changes when it is started again. `up`: started, and neither killed nor stopped; frozen is up, too.

    `links`: what it reaches `postgres`, `mongo` and `redis` through. `log`: what it said in all of its lives.
    """

    def __init__(self, name: str, data: Path, program: Sequence[str], urls: dict[str, str], links: Links) -> None:
        """`data`: where the log goes and a directory of its own; `urls`: the stores' own."""
        self.name, self.links, self.log = name, links, data / f"{name}.log"
        self.address, self.up, self.frozen = "", False, False
        self._program = program
        given = {VARIABLES[store]: through(store, url, links[store]) for store, url in urls.items()}
        home = data / name
        home.mkdir(mode=0o700, exist_ok=True)
        self._process = Process(
            name,
            home,
            self.log,
            stop=Signals.SIGTERM,
            death=Signals.SIGKILL,
            environment={**_SETTINGS, **given, "REALTIME_NODE": name},
            led=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def works(self) -> bool:
        """Also while it drains, when clients should no longer try it."""
        return self._process.running and not self.frozen

    async def start(self) -> None:
        """Until it can be asked; its stores may be down. Raises StartError."""
        await self._process.claim()
        self._process.spawn(self._program)
        await self._process.ready(self._live)
        self.up = True

    async def kill(self) -> None:
        """SIGKILL."""
        self.up = False
        await self._process.stop(Signals.SIGKILL)
        self.frozen = False

    async def stop(self) -> None:
        """SIGTERM: it drains, and ends."""
        self.thaw()
        self.up = False
        await self._process.stop()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._process.send(Signals.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self._process.send(Signals.SIGCONT)
        self.frozen = False

    def tell(self, command: str) -> None:
        """A failpoint (failpoints.py); it is acknowledged in the log."""
        self._process.tell(command)

    async def died(self) -> None:
        """Wait until a failpoint has killed it."""
        await self._process.ended()
        self.up = False

    def check(self) -> None:
        """Raises StartError where it has ended and nobody asked it to."""
        self._process.check()

    async def close(self) -> None:
        await self.kill()
        await self._process.close()

    async def _live(self) -> bool:
        found = _LIVE.search(self._process.output())
        if found is not None:
            self.address = found[1]
        return found is not None
