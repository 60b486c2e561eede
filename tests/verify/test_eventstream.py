"""Server-sent events by the rules of WHATWG HTML, 9.2.6; the examples are the standard's own."""

from __future__ import annotations

import pytest

from realtime.verify.eventstream import EventStream, Sent


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("data: YHOO\ndata: +2\ndata: 10\n\n", [Sent("message", "YHOO\n+2\n10", "")]),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [
                Sent("message", "first event", "1"),
                Sent("message", "second event", ""),
                Sent("message", " third event", ""),
            ],
        ),
        ("data\n\ndata\ndata\n\ndata:", [Sent("message", "", ""), Sent("message", "\n", "")]),
        ("data:test\n\ndata: test\n\n", [Sent("message", "test", "")] * 2),
        ("event: add\ndata: 1\n\ndata: 2\n\n", [Sent("add", "1", ""), Sent("message", "2", "")]),
        ("id: 7\n\ndata: later\n\n", [Sent("message", "later", "7")]),
        ("id: 7\ndata: 1\n\nid: \0\ndata: 2\n\n", [Sent("message", "1", "7"), Sent("message", "2", "7")]),
        ("event: none\n\ndata: 1\nretry: 10\nother: x\n\n", [Sent("message", "1", "")]),
        ("\ufeffdata: 1\n\n", [Sent("message", "1", "")]),
        ("data: ü€\n\n", [Sent("message", "ü€", "")]),
        ("data: 1\r\r\ndata: 2\r\n\r\n", [Sent("message", "1", ""), Sent("message", "2", "")]),
        ("data: not complete\n", []),
    ],
    ids=[
        "several lines", "comment and ids", "empty data", "one blank", "names", "an id alone", "an id with NULL",
        "ignored", "byte order mark", "UTF-8", "line ends", "no blank line",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_events_in_pieces_of_any_size(stream: str, events: list[Sent], size: int) -> None:
    data, reader = stream.encode(), EventStream()
    heard = [each for start in range(0, len(data), size) for each in reader.feed(data[start : start + size])]
    assert heard == events


def test_the_id_before_stays_until_another_comes() -> None:
    reader = EventStream("before")
    assert [each.id for each in reader.feed(b"data: 1\n\nid: 2\ndata: 2\n\n")] == ["before", "2"]
