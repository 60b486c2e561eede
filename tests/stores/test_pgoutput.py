"""Messages by the byte, as PostgreSQL's documentation lays them out; a real server speaks in test_postgres."""

from __future__ import annotations

import struct

import pytest

from realtime.stores.pgoutput import (
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Data,
    Delete,
    Insert,
    Keepalive,
    Relation,
    Truncate,
    Update,
    decode,
    frame,
    status,
)

SECOND = 1_000_000
NEW_YEAR_2026 = 1_767_225_600  # seconds since 1970
SINCE_2000 = (NEW_YEAR_2026 - 946_684_800) * SECOND


def row(*texts: str | None) -> bytes:
    """A tuple; `~` stands for a value that was not changed."""
    out = struct.pack(">H", len(texts))
    for text in texts:
        if text is None:
            out += b"n"
        elif text == "~":
            out += b"u"
        else:
            out += b"t" + struct.pack(">I", len(text.encode())) + text.encode()
    return out


def test_a_frame_of_data() -> None:
    assert frame(b"w" + struct.pack(">QQq", 1, 2, 3) + b"payload") == Data(b"payload")


def test_a_keepalive() -> None:
    assert frame(b"k" + struct.pack(">QqB", 0x16_0000_0001, 5, 1)) == Keepalive(0x16_0000_0001, True)


def test_our_status() -> None:
    sent = status(9, 7, NEW_YEAR_2026, reply=True)
    assert sent == b"r" + struct.pack(">QQQqB", 9, 7, 7, SINCE_2000, 1)


def test_begin_and_commit() -> None:
    begin = b"B" + struct.pack(">QqI", 0x2000, SINCE_2000 + SECOND // 2, 77)
    assert decode(begin) == Begin(0x2000, NEW_YEAR_2026 + 0.5, 77)
    assert decode(b"C" + struct.pack(">BQQq", 0, 0x2000, 0x2030, SINCE_2000)) == Commit(0x2030)


def test_a_relation() -> None:
    columns = b"\x01id\0" + struct.pack(">Ii", 20, -1) + b"\x00n\xc3\xa4me\0" + struct.pack(">Ii", 25, -1)
    message = b"R" + struct.pack(">I", 16384) + b"public\0entries\0" + b"d" + struct.pack(">H", 2) + columns
    assert decode(message) == Relation(16384, "public", "entries", (Column("id", 20), Column("näme", 25)))


def test_an_insert() -> None:
    assert decode(b"I" + struct.pack(">I", 5) + b"N" + row("1", None, "ü", "")) == Insert(5, ["1", None, "ü", ""])


def test_an_update_says_what_it_says_of_the_old_row() -> None:
    head = b"U" + struct.pack(">I", 5)
    assert decode(head + b"N" + row("1", "~")) == Update(5, None, ["1", UNCHANGED], False)
    assert decode(head + b"K" + row("1", None) + b"N" + row("2", "b")) == Update(5, ["1", None], ["2", "b"], False)
    assert decode(head + b"O" + row("1", "a") + b"N" + row("1", "b")) == Update(5, ["1", "a"], ["1", "b"], True)


def test_a_delete_and_a_truncate() -> None:
    assert decode(b"D" + struct.pack(">I", 5) + b"K" + row("1", None)) == Delete(5, ["1", None])
    assert decode(b"T" + struct.pack(">IBII", 2, 0, 5, 6)) == Truncate((5, 6))


def test_messages_that_say_nothing_about_rows() -> None:
    assert [decode(kind + b"whatever") for kind in (b"Y", b"O", b"M")] == [None, None, None]


@pytest.mark.parametrize("payload", [b"Z", b"", b"\xff1234"])
def test_unknown_messages_are_errors(payload: bytes) -> None:
    with pytest.raises(ValueError, match="unknown pgoutput message"):
        decode(payload)


def test_unknown_frames_and_columns_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown frame"):
        frame(b"x")
    with pytest.raises(ValueError, match="unknown kind of column 'b'"):
        decode(b"I" + struct.pack(">I", 5) + b"N" + struct.pack(">H", 1) + b"b")
