"""Rows that the log does not have whole: an UPDATE beside a large value (TOAST) leaves that value out.

Such a row is read again by its key, so what is shown is its state of now and not of then. Every change of that key up
to the moment of reading shows the same state, lest an older value follow a newer one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeGuard

from msgspec import UNSET, Raw
from msgspec.structs import replace

from ..errors import UnknownChannel
from ..protocol import Change, beyond
from .base import Lost, Snapshot
from .pgversions import contains

Read = Callable[[str, list[str]], Awaitable[Snapshot]]


class Rereads:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._states: dict[tuple[str, str], tuple[str, Raw | None]] = {}  # by collection and key: fence, value then
        self._fence = ""  # the newest

    async def settle(self, found: Sequence[Change | Lost]) -> list[Change | Lost]:
        """The same changes, all of which are visible by now, with their values."""
        missing: dict[str, set[str]] = {}
        for change in found:
            if _lacks_value(change):
                missing.setdefault(change.collection, set()).add(change.key)
        for collection, keys in missing.items():
            await self._look(collection, sorted(keys))
        settled = [self._shown(change) if isinstance(change, Change) else change for change in found]
        last = settled[-1] if settled else None
        if isinstance(last, Change) and beyond(self._fence, last.version):
            self._states.clear()
        return [change for change in settled if not _lacks_value(change)]  # of a table that is gone

    async def _look(self, collection: str, keys: list[str]) -> None:
        try:
            snapshot = await self._read(collection, keys)
        except UnknownChannel:
            return
        self._fence = snapshot.fence
        for key in keys:
            self._states[collection, key] = snapshot.fence, snapshot.items.get(key)

    def _shown(self, change: Change) -> Change:
        fence, value = self._states.get((change.collection, change.key), ("", None))
        if not fence or not contains(fence, change.version):
            return change
        if value is None:
            return replace(change, op="delete", value=UNSET)
        return replace(change, op="put", value=value)


def _lacks_value(change: Change | Lost) -> TypeGuard[Change]:
    return isinstance(change, Change) and change.op == "put" and change.value is UNSET
