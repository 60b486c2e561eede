"""Versions and fences, without a server."""

from __future__ import annotations

import pytest

from realtime.protocol import Cursor, beyond
from realtime.stores.pgversions import Visible, contains, fence, lsn, lsn_text, version, version_of_write

FENCE = fence(0x100, "10:20:12,15")  # read when the log was flushed to 0x100; 12 and 15 were in progress


@pytest.mark.parametrize(
    ("commit", "xid", "inside"),
    [
        (0x90, 9, True),
        (0xFF, 19, True),
        (0x100, 19, False),  # it begins where the flushed log ends
        (0x90, 12, False),  # its commit was flushed, yet the reader could not see it
        (0x90, 15, False),
        (0x90, 20, False),
        (0x101, 11, False),  # an id that was handed out again after a crash
    ],
)
def test_contains(commit: int, xid: int, inside: bool) -> None:
    assert contains(FENCE, version(commit, 0, xid)) is inside


def test_nothing_above_the_ceiling_is_contained() -> None:
    assert not beyond(FENCE, version(0xFF, 0xFFFFFFFF, 2**63))
    assert beyond(FENCE, version(0x100, 0, 3))


def test_a_fence_fits_into_a_cursor_also_with_many_transactions_in_progress() -> None:
    running = range(2**33, 2**33 + 1000)
    wide = fence(2**63, f"{running[0]}:{running[-1] + 1}:{','.join(map(str, running))}")
    assert Cursor.parse(str(Cursor("epoch", 1, wide))).fence == wide
    assert not contains(wide, version(1, 0, running[500]))
    assert contains(wide, version(1, 0, running[0] - 1))


def test_versions_sort_in_the_stream_s_order() -> None:
    places = [(1, 0, 900), (1, 1, 900), (1, 0x1FFFFFF, 900), (2, 0, 3), (0x1_0000_0000, 0, 5)]
    versions = [version(*place) for place in places]
    assert versions == sorted(versions)


def test_a_write_s_version_is_at_or_below_its_change_and_above_earlier_ones() -> None:
    written = version_of_write(0x200)
    assert version(0x1FF, 9, 7) < written < version(0x200, 0, 8)


@pytest.mark.parametrize(
    ("xmax", "xid", "full"),
    [
        (1000, 999, 999),
        (1000, 1003, 1003),  # the stream may be ahead of the snapshot
        (2**32 + 5, 0xFFFFFFFF, 2**32 - 1),  # before the counter went round
        (2**32 + 5, 4, 2**32 + 4),
        (3 * 2**32 - 2, 3, 3 * 2**32 + 3),
    ],
)
def test_the_upper_half_of_a_transaction_id(xmax: int, xid: int, full: int) -> None:
    assert Visible(xmax, frozenset()).full(xid) == full


def test_lsn() -> None:
    assert lsn("16/B374D848") == 0x16_B374D848
    assert lsn_text(0x16_B374D848) == "16/B374D848"
