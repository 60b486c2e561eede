"""The file of rules, looked at twice a second: a change of rights is to hold at once, for whoever is there.

A file that cannot be read any more, or is none, changes nothing: the rules that were good stay, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..rights import ADMIN, Rules, parse_rules
from ..tasks import Tasks
from .stamp import stamp

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
        self._stamp = stamp(self._path)
        self._tasks = Tasks()

    def open(self) -> None:
        self._tasks.every(LOOK, self._step, "rules")

    async def close(self) -> None:
        await self._tasks.close()

    async def _step(self) -> None:
        found = stamp(self._path)
        if found == self._stamp:
            return
        self._stamp = found
        try:
            rules = read_rules(self._path)
        except ConfigError as error:
            log.error("%s; the rules before it hold on", error)
            return
        log.info("new rules from %s", self._path)
        self._changed(rules)
