"""The order of Postgres' changes: versions, snapshots of transactions, and fences made of both. Pure.

The stream is in commit order, the order of LSNs; what a reader sees goes by transaction ids. A fence needs both:
a transaction may have its commit flushed and be invisible still, and an id above all of a snapshot's may be handed
out again after a crash.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

_EPOCH = 1 << 32


class Visible(Struct, frozen=True):
    """Which transactions a snapshot sees: those below `xmax`, but for the ones in progress (`pg_snapshot`)."""

    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Visible:
        """`xmin:xmax:xip,xip,…`, as `pg_current_snapshot()` writes it."""
        _, xmax, running = text.split(":")
        return cls(int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    def __contains__(self, xid: int) -> bool:
        return xid < self.xmax and xid not in self.running

    def full(self, xid: int) -> int:
        """The 64-bit id of a recent transaction, of which the stream has the lower 32 bits only."""
        near = self.xmax - self.xmax % _EPOCH + xid
        if near - self.xmax > _EPOCH // 2:
            return near - _EPOCH
        return near + _EPOCH if self.xmax - near > _EPOCH // 2 else near


def lsn(text: str) -> int:
    """`16/B374D848` as a number."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def version(commit: int, index: int, xid: int) -> str:
    """A change's place: its transaction's commit, its index therein; and the 64-bit id, for the fence."""
    return f"{commit:016x}.{index:08x}.{xid:x}"


def version_of_write(insert: int) -> str:
    """Sorts below the change of a row that was written before the log's end came to be at `insert`, and above every
    earlier change of that row: they were committed before, and its own commit record comes after."""
    return f"{insert:016x}"


def fence(flushed: int, snapshot: str) -> str:
    """`<lsn>.z_<xmax>[-<below xmax>…]`: running transactions as distances from xmax, to keep cursors short.

    A commit that begins where the flushed log ends is not in it: the ceiling lies one below.
    """
    visible = Visible.parse(snapshot)
    running = "".join(f"-{visible.xmax - xid:x}" for xid in sorted(visible.running))
    return f"{flushed - 1:016x}.z_{visible.xmax:x}{running}"


def contains(fence: str, version: str) -> bool:
    """Whether the rows that were read within `fence` show the change `version` already."""
    ceiling, visible = _parse(fence)
    return version < ceiling and int(version[version.rindex(".") + 1 :], 16) in visible


@lru_cache(maxsize=1024)
def _parse(fence: str) -> tuple[str, Visible]:
    ceiling, _, rest = fence.partition("_")
    xmax, *distances = [int(part, 16) for part in rest.split("-")]
    return ceiling, Visible(xmax, frozenset(xmax - distance for distance in distances))
