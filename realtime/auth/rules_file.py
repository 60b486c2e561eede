"""The file of rules, looked at twice a second: a change of rights is to hold at once, for whoever is there.

A file that cannot be read any more, or is none, changes nothing: the rules that were good stay, and the log says why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..rights import ADMIN, Rules, parse_rules
from ..tasks import Tasks

log = logging.getLogger("realtime.auth")

LOOK = 0.5  # seconds between two looks


def read_rules(path: str | None) -> Rules:
    """Raises ConfigError."""
    if path is None:
        return ADMIN
    try:
        return parse_rules(Path(path).read_text(), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"rules: {path}: {reason}; docs/security.md shows what such a file says") from None


class RulesFile:
    """`changed` is given the new rules."""

    def __init__(self, path: str, changed: Callable[[Rules], None]) -> None:
        self._path, self._changed = path, changed
        self._stamp = self._look()
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.every(LOOK, self._step, "rules")

    async def close(self) -> None:
        await self._tasks.close()

    async def _step(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            rules = read_rules(self._path)
        except ConfigError as error:
            log.error("%s; the rules before it hold on", error)
            return
        log.info("new rules from %s", self._path)
        self._changed(rules)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
