"""Whatever comes, and whenever it is taken: who applies all that is taken knows what who was told everything knows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from realtime import protocol
from realtime.client import Event, Reset, Snapshot, inbox
from realtime.client.inbox import Inbox
from realtime.protocol import Mode, Op
from realtime.replica import Replica

CHANNEL = "memory/rooms"


def event(number: int, key: str, op: Op) -> protocol.Event:
    value = Raw(str(number).encode()) if op == "put" else UNSET
    return protocol.Event(CHANNEL, key, op, f"{number:08}", 0, value, f"v1.e.{number}")


def reset(number: int, keys: list[str], more: bool) -> protocol.Reset:
    return protocol.Reset(CHANNEL, f"v1.e.{number}", {key: Raw(b"0") for key in keys}, "epoch", more=more)


class Known(dict[str, Any]):
    """What one knows who iterates."""

    resets = 0

    def apply(self, message: object) -> None:
        match message:
            case Snapshot() | Reset():
                self.clear()
                self.update(message.items)
                self.resets += isinstance(message, Reset)
            case Event(op="put"):
                self[message.key] = message.value
            case Event():
                self.pop(message.key, None)


keys = st.sampled_from("abcdefg")
steps = st.one_of(
    st.tuples(st.just("event"), keys, st.sampled_from(["put", "put", "delete"])),
    st.tuples(st.just("reset"), st.lists(keys), st.booleans()),
    st.tuples(st.just("take"), st.integers(1, 6), st.none()),
)


@pytest.mark.parametrize("mode", ["latest", "all"])
@given(story=st.lists(steps, max_size=60))
def test_all_that_is_taken_is_all_there_is(mode: Mode, story: list[Any]) -> None:
    slow, inbox.SLOW = inbox.SLOW, 5
    try:
        replica, waiting, known = Replica(CHANNEL), Inbox(CHANNEL, None, mode, None, lambda: None), Known()
        told = 0
        for number, (kind, what, how) in enumerate(story, 1):
            if kind == "take":
                for _ in range(what):
                    known.apply(waiting.next())
                continue
            message = event(number, what, how) if kind == "event" else reset(number, what, how)
            replica.apply(message)
            waiting.take(message)
            told += kind == "reset" and not how
        assert waiting.cursor == replica.cursor
        while len(waiting):
            known.apply(waiting.next())
        assert known == {key: msgspec.json.decode(value) for key, value in replica.items.items()}
        assert waiting.taken == waiting.cursor
        assert bool(known.resets) == bool(told)
        assert mode == "latest" or known.resets == told
    finally:
        inbox.SLOW = slow


@pytest.mark.parametrize(("mode", "left"), [("latest", 1), ("all", 12)])
def test_items_take_the_place_of_what_they_are_newer_than(mode: Mode, left: int) -> None:
    waiting = Inbox(CHANNEL, None, mode, "v1.e.0", lambda: None)
    for number in range(1, 11):
        waiting.take(event(number, "a", "put"))
    waiting.take(reset(11, ["a"], more=False))
    waiting.take(reset(12, ["b"], more=False))
    assert len(waiting) == left


def test_half_a_snapshot_is_forgotten_with_its_connection() -> None:
    waiting = Inbox(CHANNEL, None, "latest", None, lambda: None)
    waiting.take(protocol.Subscribed(1, CHANNEL, "v1.e.1", {"a": Raw(b"1")}, more=True))
    assert (waiting.next(), waiting.cursor) == (None, None)
    waiting.broken()
    waiting.take(protocol.Subscribed(2, CHANNEL, "v1.e.2", {"b": Raw(b"2")}))
    assert waiting.next() == Snapshot(CHANNEL, None, {"b": 2}, "v1.e.2")


def test_a_cursor_that_was_taken_never_skips() -> None:
    """Taken in the middle of what is slow: all events behind that cursor are still to come."""
    waiting = Inbox(CHANNEL, None, "latest", "v1.e.0", lambda: None)
    for number in range(1, inbox.SLOW + 500):
        waiting.take(event(number, f"k{number % 700}", "put"))
    places = []
    while (message := waiting.next()) is not None:
        places.append(int(message.cursor.rpartition(".")[2]))
        assert waiting.taken == message.cursor
    assert places == sorted(places)
    assert len(places) == 700
    assert waiting.taken == f"v1.e.{inbox.SLOW + 499}"
